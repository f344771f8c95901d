"""Logistic matrix factorisation: correctness as the product of a question's and a candidate's vector."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.baselines.embedding import Embeddings
from benchmarks.baselines.expected import ExpectedRouter
from benchmarks.baselines.torch_fit import minimise, seeded
from benchmarks.evaluation.reply_table import Floats

_FACTORS = 16


class _Factors(torch.nn.Module):
    """`questions` (rows, dimensions) -> logits (rows, candidates): w · (v_candidate ⊙ (W question + b)) + bias."""

    def __init__(self, dimensions: int, base: Floats) -> None:
        super().__init__()
        self.question = torch.nn.Linear(dimensions, _FACTORS)
        self.candidate = torch.nn.Embedding(len(base), _FACTORS)
        self.weigh = torch.nn.Linear(_FACTORS, 1, bias=False)
        clipped = torch.as_tensor(base, dtype=torch.float32).clamp(0.01, 0.99)
        self.bias = torch.nn.Parameter(torch.logit(clipped))

    def forward(self, questions: torch.Tensor) -> torch.Tensor:
        products = self.candidate.weight[None] * self.question(questions)[:, None]
        logits: torch.Tensor = self.weigh(products).squeeze(-1) + self.bias
        return logits


class MatrixFactorisation(ExpectedRouter):
    """RouteLLM's matrix factorisation (Ong et al., arXiv 2406.18665, section 4.2).

    There the model is fitted to which of two candidates people prefer; here, where it is known of each candidate
    whether it is right, to that. A bias per candidate starts from its share of right replies.
    """

    def learn(self, questions: Embeddings, correct: Floats) -> None:
        x, y = torch.as_tensor(questions), torch.as_tensor(correct, dtype=torch.float32)
        base = correct.mean(axis=0)
        self._module = seeded(self.terms.seed, lambda: _Factors(questions.shape[1], base))

        def loss_of(rows: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.binary_cross_entropy_with_logits(self._module(x[rows]), y[rows])

        self._epoch = minimise(self._module, loss_of, len(x), seed=self.terms.seed)

    def chosen(self) -> str:
        return f"epoch {self._epoch}"

    def expect(self, questions: Embeddings) -> Floats:
        with torch.no_grad():
            right = torch.sigmoid(self._module(torch.as_tensor(questions)))
        return np.asarray(right.numpy(), dtype=np.float64)
