"""Dual contrastive routing: questions are drawn to the candidates that serve them well, and to similar questions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.baselines.embedding import Embedder, Embeddings
from benchmarks.baselines.router import AskingOrder, Router, best_columns, check_enough, cost_scale, utilities
from benchmarks.baselines.torch_fit import minimise, seeded
from benchmarks.evaluation.reply_table import Floats, ReplyTable

_WIDTH = 32
_CLUSTERS = 5  # of questions, as in the paper
_TEMPERATURE = 0.3  # of cosine similarities
_QUESTIONS_WEIGHT = 0.2  # of the loss between questions
_ALIKE = 1e-6  # utilities no further apart are the same


class _Encoder(torch.nn.Module):
    """Questions and candidates to one space; `forward` gives their cosine over the temperature, plus a bias per
    candidate, without which no candidate could be better on the whole."""

    def __init__(self, dimensions: int, candidates: int) -> None:
        super().__init__()
        self.question = torch.nn.Sequential(
            torch.nn.Linear(dimensions, 64), torch.nn.ReLU(), torch.nn.Linear(64, _WIDTH)
        )
        self.candidate = torch.nn.Parameter(0.1 * torch.randn(candidates, _WIDTH))
        self.bias = torch.nn.Parameter(torch.zeros(candidates))

    def encode(self, questions: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.question(questions), dim=-1)

    def forward(self, questions: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.encode(questions) @ F.normalize(self.candidate, dim=-1).T / _TEMPERATURE
        return scores + self.bias


class Contrastive(Router):
    """A router after RouterDC (Chen et al., arXiv 2409.19886, section 3): for each question the best candidates are
    drawn near and the others pushed away, and questions of one cluster are drawn together.

    The paper takes the top candidates by score as positives and those of the lowest score as negatives. Here each
    candidate is a positive against those that are worth less, by how much less they are worth: otherwise two that
    differ by a hundredth of a cent would be pushed as far apart as a right and a wrong one, and the cheapest right one
    would be the only positive. The paper fine-tunes a language model for the embedding; here it is a network on
    `Embedder`'s.
    """

    learns_lambda = True

    def fit(self, train: ReplyTable) -> None:
        check_enough(train)
        self._costs = train.cost_usd.mean(axis=0) / cost_scale(train)
        self._embedder = Embedder(self.terms)
        embedded = self._embedder.fit(train.queries)
        worth = utilities(train, self.lambda_)
        questions, utility = torch.as_tensor(embedded), torch.as_tensor(worth, dtype=torch.float32)
        clusters = torch.as_tensor(_cluster(embedded, self.terms.seed))
        self._encoder = seeded(self.terms.seed, lambda: _Encoder(embedded.shape[1], worth.shape[1]))

        def loss_of(rows: torch.Tensor) -> torch.Tensor:
            encoded = self._encoder.encode(questions[rows])  # type: ignore[operator]
            return _candidates_loss(
                self._encoder(questions[rows]), utility[rows]
            ) + _QUESTIONS_WEIGHT * _questions_loss(encoded, clusters[rows])

        self._epoch = minimise(self._encoder, loss_of, len(questions), seed=self.terms.seed)

    def chosen(self) -> str:
        return f"epoch {self._epoch}"

    def route(self, table: ReplyTable) -> list[AskingOrder]:
        with torch.no_grad():
            scores: Floats = self._encoder(torch.as_tensor(self._embedder.embed(table.queries))).double().numpy()
        return best_columns(scores, self._costs)


def _candidates_loss(scores: torch.Tensor, utility: torch.Tensor) -> torch.Tensor:
    """Mean over candidates i of -log(e^i / (e^i + Σ_j (gap_ij / gap_i) e^j)), weighed by gap_i, over those j that are
    worth less by gap_ij, of which gap_i is the widest; times the widest of all. Where replies are worth 0 or 1, that
    is the paper's mean over positives."""
    gaps = (utility[:, :, None] - utility[:, None, :]).clamp(min=0)  # (rows, positive, negative)
    widest = gaps.max(dim=2).values
    shares = gaps / widest.clamp(min=_ALIKE)[:, :, None]
    negatives = torch.where(gaps > _ALIKE, scores[:, None, :] + torch.log(shares.clamp(min=_ALIKE)), float("-inf"))
    each = torch.logsumexp(torch.cat([scores[:, :, None], negatives], 2), 2) - scores
    mean = (widest * each).sum(1) / widest.sum(1).clamp(min=_ALIKE)
    return (widest.max(dim=1).values * mean).mean()


def _questions_loss(encoded: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """Mean over questions of -log(Σ e^same cluster / Σ e^all other questions)."""
    if len(encoded) < 2:
        return encoded.sum() * 0
    itself = torch.eye(len(encoded), dtype=torch.bool)
    likeness = (encoded @ encoded.T / _TEMPERATURE).masked_fill(itself, float("-inf"))
    same = (clusters[:, None] == clusters[None]) & ~itself
    paired = same.any(1)
    if not paired.any():
        return encoded.sum() * 0
    near = torch.logsumexp(likeness.masked_fill(~same, float("-inf"))[paired], 1)
    return (torch.logsumexp(likeness[paired], 1) - near).mean()


def _cluster(questions: Embeddings, seed: int) -> np.ndarray:
    """The cluster of each question."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(questions, axis=0))
    return np.asarray(KMeans(min(_CLUSTERS, distinct), n_init=4, random_state=seed).fit_predict(questions))
