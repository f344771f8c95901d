"""Heavy imports: they leave out scikit-learn, and the garbage collector works afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import gc, sys
from actors.heavy_imports import heavy_imports

with heavy_imports():
    assert not gc.isenabled()
    import transformers.generation.candidate_generator

assert "sklearn" not in sys.modules
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
import sklearn.metrics
"""


@pytest.mark.engine  # a process that imports torch
def test_scikit_learn_is_left_to_those_who_want_it_and_garbage_is_looked_for_afterwards() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=300)
