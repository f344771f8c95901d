"""How transformers is imported: without scikit-learn, which it would load with pandas and a thousand modules more."""

from __future__ import annotations


def keep_sklearn_out() -> None:
    """Have transformers believe that scikit-learn isn't installed; to be called before it imports its `generation`.

    It takes one function from there, for a draft model that proposes tokens, which nobody here has; the import costs
    each worker, engine server and rank a second of a core or more. Our own imports of scikit-learn go on as before.
    """
    import transformers.utils

    transformers.utils.is_sklearn_available = lambda: False
