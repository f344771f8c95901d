"""The options of an evaluation, and whether they go together."""

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
    """An evaluation that can't be made as asked for; the message names option, value and remedy."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is to be evaluated, and how."""

    target: str
    datasets: tuple[str, ...] = ()
    protocol: Name = "paper"
    samples: int | None = None
    limit: int | None = None  # questions of each set
    budgets_usd: tuple[float, ...] = ()  # the policy is asked everything once under each
    baselines: tuple[str, ...] = ("all",)
    lambdas: tuple[float, ...] = (0.0,)
    embedding: str = HASHING  # of the questions, for baselines that learn; or a sentence-transformers model
    seed: int = 0  # of the baselines and of the split of recorded replies
    out: Path | None = None
    recipe: str = "quickstart"
    overrides: tuple[str, ...] = ()
    model: str | None = None  # at a URL
    api_key_env: str | None = None
    price_in: float = 0.0  # that model's USD per million tokens
    price_out: float = 0.0
    timeout_s: float = 120.0
    engines: int = 1  # that play the policy; several are Ray's workers
    concurrency: int | None = None  # episodes at a time; as many as the engines take, of a URL 16
    ask_everyone: bool = False
    fit_questions: int = 200  # that everyone is asked besides, for baselines to learn from
    max_usd: float = 1.0  # that asking everyone may cost without `yes`
    yes: bool = False
    pools: tuple[str, ...] = ()  # variants besides the candidates as trained; see `pool_variants`
    against: str | None = None  # row that the others are compared with
    published: str = "qwen"
    resamples: int = RESAMPLES

    @property
    def is_url(self) -> bool:
        return "://" in self.target

    @property
    def is_table(self) -> bool:
        """Whether there is no policy: replies are recorded, or follow from the world."""
        return self.target == WORLD or self.target.startswith(RECORDED)

    def check(self) -> None:
        """Check that the options go together.

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
            raise EvaluateError(f"--model {self.model} goes with a URL, and the target is {self.target}; leave it out")
        if wrong := [usd for usd in self.budgets_usd if not 0 < usd < math.inf]:
            raise EvaluateError(f"--budget {wrong[0]:g}: must be a number of US dollars above 0, such as 0.0005")
        if twice := [usd for usd in self.budgets_usd if self.budgets_usd.count(usd) > 1]:
            raise EvaluateError(f"--budget {twice[0]:g} comes twice; name each budget once")
        if self.engines > 1 and self.is_url:
            raise EvaluateError(
                f"--engines {self.engines} with {self.target}: the model there plays, and no engine is started; leave "
                "it out, and raise --concurrency to have more episodes played at a time"
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
            raise EvaluateError(f"{named} with {self.target}: no policy plays there and nobody is asked; leave it out")
