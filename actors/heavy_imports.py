"""How vLLM, DeepSpeed and transformers are imported: with less work than they make of it by themselves."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """What is imported inside comes without scikit-learn, and nothing looks for garbage meanwhile.

    transformers takes one function from scikit-learn, for a draft model that proposes tokens, which nobody here has;
    that import costs a second of a core. Our own imports of scikit-learn go on as before. The collector would look
    again and again through hundreds of thousands of new objects, of which all stay.
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
