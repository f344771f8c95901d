"""Imports vLLM, DeepSpeed and transformers with less work than they do by default."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Imports inside the block leave out scikit-learn, and run without the garbage collector.

    transformers needs scikit-learn only for one function of draft models, which we don't use, and its import costs a
    CPU second. Our own imports of scikit-learn still work. The collector would search hundreds of thousands of new
    objects again and again, although all of them stay.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        import transformers.utils

        transformers.utils.is_sklearn_available = lambda: False
        yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()
