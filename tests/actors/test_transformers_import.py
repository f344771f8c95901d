"""What transformers' import leaves out."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from actors.transformers_import import keep_sklearn_out

keep_sklearn_out()
import transformers.generation.candidate_generator

assert "sklearn" not in sys.modules
import sklearn.metrics
"""


@pytest.mark.engine  # a process that imports torch
def test_scikit_learn_is_not_loaded_by_transformers_and_there_for_others() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=300)
