"""Question embeddings: hashed words by default, or a sentence-transformers model if one is named."""

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
    """Turns texts into vectors of unit length.

    `hashing` hashes words and word pairs, weights them by rarity and reduces them to `DIMENSIONS` with a truncated SVD;
    weights and SVD are learnt on the training questions. Every other name is a sentence-transformers model, by name or
    path.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._model: Any = None

    def fit(self, texts: Sequence[str]) -> Embeddings:
        """Learn from the training questions, and embed them: `[N, D]`.

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
        """A row for each text: `[N, D]`."""
        vectors: Embeddings = self._model.transform(texts).astype(np.float32)
        return vectors


def check_embedding(name: str) -> None:
    """Check that this embedding works: load the model, if `name` is one.

    Raises:
        RouterError: sentence-transformers is not installed, or can't load the model.
    """
    if name != HASHING:
        _sentences(name)


def widen(questions: Embeddings) -> Embeddings:
    """Scale vectors of unit length so that their entries are about 1, which suits networks."""
    return questions * np.float32(np.sqrt(questions.shape[1]))


class _Sentences:
    """A sentence-transformers model, on the CPU, because the engines need the GPU."""

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
        except Exception as error:  # hubs and model files fail with errors of many classes
            raise RouterError(
                f"--embedding {name!r}: sentence-transformers can't load it ({error}); give a model's name on the hub "
                f"or the folder of one, or use {HASHING!r}"
            ) from error

    def transform(self, texts: Sequence[str]) -> Any:
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


@lru_cache(maxsize=1)  # the check and each router load the same model
def _sentences(name: str) -> _Sentences:
    return _Sentences(name)
