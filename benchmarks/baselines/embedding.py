"""Question embeddings: hashed words by default, a sentence-transformers model where one is named."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.baselines.router import HASHING, RouterError, Terms

Embeddings = npt.NDArray[np.float32]
DIMENSIONS = 64
_FEATURES = 2**14


class Embedder:
    """Texts to vectors of unit length.

    `hashing` hashes words and word pairs, weighs them by rarity and reduces them to `DIMENSIONS` by a truncated SVD,
    both learnt on the training questions. Any other name is the name or path of a sentence-transformers model.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._model: Any = None

    def fit(self, texts: Sequence[str]) -> Embeddings:
        """Learn from the training questions, and embed them.

        Raises:
            RouterError: as `check_embedding`.
        """
        if self._terms.embedding != HASHING:
            self._model = _sentences(self._terms.embedding)
            return self.embed(texts)
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        words = HashingVectorizer(
            n_features=_FEATURES, ngram_range=(1, 2), token_pattern=r"\w+", alternate_sign=False, norm=None
        )
        self._model = make_pipeline(
            words,
            TfidfTransformer(sublinear_tf=True),
            TruncatedSVD(min(DIMENSIONS, len(texts)), random_state=self._terms.seed),
            Normalizer(),
        )
        self._model.fit(texts)
        return self.embed(texts)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """A row for each text."""
        vectors: Embeddings = self._model.transform(texts).astype(np.float32)
        return vectors


def check_embedding(name: str) -> None:
    """Check that questions can be embedded so: load the model, if one is named.

    Raises:
        RouterError: sentence-transformers is not installed, or can't load the model.
    """
    if name != HASHING:
        _sentences(name)


def widen(questions: Embeddings) -> Embeddings:
    """Entries of about 1, as networks want them, rather than vectors of unit length."""
    return questions * np.float32(np.sqrt(questions.shape[1]))


class _Sentences:
    """A sentence-transformers model, on the CPU: the GPU is the engines'."""

    def __init__(self, name: str) -> None:
        if not name.strip():
            raise RouterError(f"--embedding {name!r}: names no model; give a name or path, or {HASHING!r}")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise RouterError(
                f"--embedding {name!r}: needs the package sentence-transformers, which can't be imported ({error}); "
                f"install it (pip install sentence-transformers), or use {HASHING!r}"
            ) from error
        try:
            self._model = SentenceTransformer(name, device="cpu")
        except Exception as error:  # a hub and a model's files fail in many ways, and no class has them all
            raise RouterError(
                f"--embedding {name!r}: sentence-transformers can't load it ({error}); give a model's name on the hub "
                f"or the folder of one, or use {HASHING!r}"
            ) from error

    def transform(self, texts: Sequence[str]) -> Any:
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


@lru_cache(maxsize=1)  # it is loaded to see that it can be, and again by each router
def _sentences(name: str) -> _Sentences:
    return _Sentences(name)
