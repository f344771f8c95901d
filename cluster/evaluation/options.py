"""The options of an evaluation, and the check that they fit together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from actors.errors import ExplainedError
from actors.pool.cards import check_base_url
from benchmarks.baselines.router import HASHING
from benchmarks.evaluation.protocol import Name
from benchmarks.evaluation.statistics import RESAMPLES

RECORDED, WORLD = "recorded:", "world"


class EvaluateError(ExplainedError, RuntimeError):
    """An evaluation can't be made with these options; the message names option, value and remedy."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """The target of an evaluation, and its settings."""

    target: str
    datasets: tuple[str, ...] = ()
    protocol: Name = "paper"
    samples: int | None = None
    limit: int | None = None  # questions of each set
    budgets_usd: tuple[float, ...] = ()  # the policy gets all questions once with each budget
    baselines: tuple[str, ...] = ("all",)
    lambdas: tuple[float, ...] = (0.0,)
    embedding: str = HASHING  # of questions, for baselines that learn: hashing, or a sentence-transformers model
    seed: int = 0  # of the baselines, and of the split of recorded replies
    out: Path | None = None
    recipe: str = "quickstart"
    overrides: tuple[str, ...] = ()
    model: str | None = None  # the model's name, if the target is a URL
    api_key_env: str | None = None
    price_in: float = 0.0  # USD per million tokens of the model at the URL
    price_out: float = 0.0
    timeout_s: float = 120.0
    engines: int = 1  # number of engines that play the policy; several run as Ray workers
    concurrency: int | None = None  # episodes at a time; None: as many as the engines take, and 16 for a URL
    ask_everyone: bool = False
    fit_questions: int = 200  # further questions to ask everyone, for baselines to learn from
    max_usd: float = 1.0  # limit on the cost of asking everyone without `yes`
    yes: bool = False
    pools: tuple[str, ...] = ()  # variants in addition to the candidates as trained; see `pool_variants`
    against: str | None = None  # the row that all others are compared with
    published: str = "qwen"
    resamples: int = RESAMPLES

    @property
    def is_url(self) -> bool:
        return "://" in self.target

    @property
    def is_table(self) -> bool:
        """Whether there is no policy, but only a reply table: recorded, or computed from the world."""
        return self.target == WORLD or self.target.startswith(RECORDED)

    def check(self) -> None:
        """Check that the options fit together.

        Raises:
            EvaluateError: they do not.
        """
        if self.is_url:
            try:
                check_base_url(self.target)
            except ValueError as error:
                raise EvaluateError(f"the target's URL {error}") from error
        if self.is_url and not self.model:
            raise EvaluateError(f"{self.target} needs --model NAME, the model's name at that endpoint")
        if self.model and not self.is_url:
            raise EvaluateError(f"--model {self.model} needs a URL, but the target is {self.target}; leave it out")
        if wrong := [usd for usd in self.budgets_usd if not 0 < usd < math.inf]:
            raise EvaluateError(f"--budget {wrong[0]:g}: must be a number of US dollars above 0, such as 0.0005")
        if twice := [usd for usd in self.budgets_usd if self.budgets_usd.count(usd) > 1]:
            raise EvaluateError(f"--budget {twice[0]:g} comes twice; name each budget once")
        if self.engines > 1 and self.is_url:
            raise EvaluateError(
                f"--engines {self.engines} with {self.target}: the model there plays, and no engine is started; leave "
                "it out, and raise --concurrency to play more episodes at a time"
            )
        given = {
            "--samples": self.samples is not None,
            "--budget": bool(self.budgets_usd),
            "--ask-everyone": self.ask_everyone,
            "--set": bool(self.overrides),
            "--pool": bool(self.pools),
            "--engines": self.engines > 1,
        }
        if self.is_table and any(given.values()):
            named = ", ".join(name for name, is_given in given.items() if is_given)
            raise EvaluateError(
                f"{named} with {self.target}: no policy plays there and no candidate is called; leave it out"
            )
