"""Dual contrastive routing: training moves a question's vector to those of good candidates and similar questions."""

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
_TEMPERATURE = 0.3  # divides cosine similarities
_QUESTIONS_WEIGHT = 0.2  # weight of the loss between questions
_ALIKE = 1e-6  # utilities that differ by no more count as equal


class _Encoder(torch.nn.Module):
    """Encodes questions and candidates in one space.

    `forward` maps questions `[N, D]` to scores `[N, candidates]`: cosine divided by the temperature, plus a bias for
    each candidate. Without the bias no candidate could be better than another on all questions.
    """

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
    """A router after RouterDC (Chen et al., arXiv 2409.19886, section 3).

    Its losses move the best candidates' vectors to the question's and the others away, and they move questions of one
    cluster together.

    The paper takes the candidates with the highest scores as positives and those with the lowest as negatives. Here
    each candidate is a positive against every candidate with a lower utility, weighted by the difference. With the
    paper's loss, two right replies that differ by a hundredth of a cent would be pushed as far apart as a right and a
    wrong reply, and the cheapest right candidate would be the only positive. The paper fine-tunes a language model for
    the embedding; here it is a small network on the vectors of `Embedder`.
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
    """The loss between questions and candidates; scores and utility are `[N, candidates]`.

    For candidate i with score s_i, j runs over the candidates whose utility is lower by gap_ij > 0, and gap_i is the
    largest gap_ij. The loss of a question is the mean over i of -log(exp(s_i) / (exp(s_i) + Σ_j (gap_ij / gap_i)
    exp(s_j))), weighted by gap_i, times the largest gap_i. If all utilities are 0 or 1, this is the paper's mean over
    positives.
    """
    gaps = (utility[:, :, None] - utility[:, None, :]).clamp(min=0)  # (rows, positive, negative)
    widest = gaps.max(dim=2).values
    shares = gaps / widest.clamp(min=_ALIKE)[:, :, None]
    negatives = torch.where(gaps > _ALIKE, scores[:, None, :] + torch.log(shares.clamp(min=_ALIKE)), float("-inf"))
    each = torch.logsumexp(torch.cat([scores[:, :, None], negatives], 2), 2) - scores
    mean = (widest * each).sum(1) / widest.sum(1).clamp(min=_ALIKE)
    return (widest.max(dim=1).values * mean).mean()


def _questions_loss(encoded: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """The loss between questions: the mean of -log(Σ_same exp(s) / Σ_all exp(s)).

    s is a question's cosine with another question, divided by the temperature. `same` are the other questions of its
    cluster, `all` all other questions. Questions that are alone in their cluster don't count.
    """
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
    """The number of each question's cluster, `[N]`."""
    from sklearn.cluster import KMeans

    distinct = len(np.unique(questions, axis=0))
    return np.asarray(KMeans(min(_CLUSTERS, distinct), n_init=4, random_state=seed).fit_predict(questions))
