"""Question embeddings: hashed words by default, a sentence-transformers model where one is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.baselines.router import RouterError, Terms

Embeddings = npt.NDArray[np.float32]
DIMENSIONS = 64
_FEATURES = 2**14


class Embedder:
    """Texts to vectors of unit length.

    `hashing` hashes words and word pairs, weighs them by rarity and reduces them to `DIMENSIONS` by a truncated SVD,
    both learnt on the training questions. Any other name is that of a sentence-transformers model.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._model: Any = None

    def fit(self, texts: Sequence[str]) -> Embeddings:
        """Learn from the training questions, and embed them.

        Raises:
            RouterError: sentence-transformers is asked for and not installed.
        """
        if self._terms.embedding != "hashing":
            self._model = _Sentences(self._terms.embedding)
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


def widen(questions: Embeddings) -> Embeddings:
    """Entries of about 1, as networks want them, rather than vectors of unit length."""
    return questions * np.float32(np.sqrt(questions.shape[1]))


class _Sentences:
    """A sentence-transformers model."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise RouterError(
                f"embedding {name!r} needs the package sentence-transformers; install it, or choose 'hashing'"
            ) from error
        self._model = SentenceTransformer(name)

    def transform(self, texts: Sequence[str]) -> Any:
        return self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
