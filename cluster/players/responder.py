"""The responder: a checkpoint that answers questions, through the episode code of training."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from actors.checkpoint_loading import read_tokenizer
from actors.engine.fork_server import start_engine_server
from actors.engine.generation import Generation
from actors.engine.policy_engine import EngineDied, EngineLost, PolicyEngine
from actors.episodes.episode import Episode, EpisodeRequest, Observer
from actors.episodes.menu import Renaming, draw_menu
from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError
from actors.heavy_imports import heavy_imports
from actors.ledger.database import FILE_NAME as LEDGER_FILE
from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from actors.questions import Question
from actors.settings import SamplingSettings
from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.episodes.candidates import open_books
from cluster.episodes.requests import evaluation_budget
from cluster.runs.checkpoint_folder import resolve_checkpoint_folder
from cluster.runs.policy_checkpoints import NAMED, locate_checkpoint
from cluster.runs.run_id import FILE_NAME as RUN_ID_FILE
from cluster.runs.run_id import keep_run_id

GREEDY = SamplingSettings(temperature=0.0)


class PolicyUnavailable(ExplainedError, RuntimeError):
    """The policy engine's processes are gone, or hang."""


@dataclass(frozen=True, slots=True)
class PolicySource:
    """Where a policy comes from, and the settings it was trained under."""

    checkpoint: Path
    config: Config
    name: str  # for people
    version: int  # the training step of the checkpoint; 0 if its name has none
    run: Path | None  # folder of the run that the checkpoint belongs to
    ledger: Path  # unless the configuration names another: the ledger of the run, or that of `run.folder`

    @property
    def booked_as(self) -> str:
        """The run under which the ledger records its calls: not the training run, which has its own cap in dollars.

        Raises:
            RunIdError: the run's id can't be read or kept.
        """
        name = keep_run_id(self.run / RUN_ID_FILE, self.run.name) if self.run else self.checkpoint.name
        return f"{name}/answers"


def open_source(spec: str | Path, recipe: str = "quickstart", overrides: Sequence[str] = ()) -> PolicySource:
    """Find a checkpoint by its run folder, by its own folder, or by name: `world`, `world-budget` or `smollm2`.

    Episode, prompt and candidates come from the run's `config.yaml` or, if there is no run, from `recipe`.

    Raises:
        RunFolderError: the folder is neither a checkpoint nor a run that has one.
        ConfigError: the run's configuration, the recipe or an override can't be used.
    """
    run = None
    if str(spec) not in NAMED:
        checkpoint, run = resolve_checkpoint_folder(Path(spec))
    config = load_config(str(run / "config.yaml") if run else recipe, overrides)
    if str(spec) in NAMED:
        checkpoint = Path(locate_checkpoint(str(spec), config.run.folder / ".cache"))
    checkpoint = checkpoint.absolute()
    step = re.fullmatch(r"step_(\d+)", checkpoint.name)
    run = run.absolute() if run else None
    name = f"{run.name}/{checkpoint.name}" if run else checkpoint.name
    ledger = (run or config.run.folder.absolute()) / LEDGER_FILE
    return PolicySource(checkpoint, config, name, int(step.group(1)) if step else 0, run, ledger)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question for the policy. The seed draws the menu and the samples."""

    question: str
    sampling: SamplingSettings = GREEDY
    seed: int = 0
    max_tokens: int | None = None  # sampled in the whole episode, at most


class Responder:
    """One policy engine and one candidate caller, used from a single event loop."""

    def __init__(self, source: PolicySource, cards: Sequence[ModelCard], caller: CandidateCaller | None = None) -> None:
        """`caller` is closed with the responder, which makes its own if none is given."""
        config = source.config
        self.source = source
        self.cards = tuple(cards)
        self.engine = PolicyEngine(
            source.checkpoint,
            config.engine,
            version=source.version,
            seed=config.run.seed,
            weight_backend=config.weight_backend,
        )
        self.caller = caller or hire_caller(source, self.cards)
        self._tokenizer: Any = None
        self._failure: str | None = None

    async def start(self) -> None:
        """Check that the candidates answer, then start the engine.

        Raises:
            PoolError: a candidate's endpoint does not answer, or its key is missing.
            LedgerError: the ledger can't be used.
            EngineLate: the engine was not ready in time.
        """
        try:
            await self.caller.check()
            start_engine_server(self.source.config.engine)
            # Import vLLM before building the engine: the import's stack frames would keep a reference to the engine.
            with heavy_imports():
                await asyncio.to_thread(import_module, "vllm.v1.engine.async_llm")
            self._tokenizer = await asyncio.to_thread(read_tokenizer, self.source.checkpoint)
            await self.engine.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop the engine and close the connections; leaves no process behind."""
        try:
            await self.caller.close()
        finally:
            await self.engine.shutdown()

    async def respond(self, ask: Ask, observer: Observer | None = None) -> Trajectory:
        """Answer a question with one episode. There is no deadline here: the caller sets one. Cancelling the call ends
        the episode.

        Raises:
            PromptTooLong: the prompt fills `engine.max_model_len`.
            PolicyUnavailable: the engine died, or hangs.
        """
        return await self.play(self._request(ask), observer, ask.max_tokens)

    async def play(
        self, request: EpisodeRequest, observer: Observer | None = None, max_tokens: int | None = None
    ) -> Trajectory:
        """As `respond`, but play the episode of a request, which may belong to a run."""
        config = self.source.config
        episode = Episode(
            request,
            tokenizer=self._tokenizer,
            generate=self.engine.generate if max_tokens is None else _Allowance(self.engine, max_tokens),
            ask=self.caller.ask,
            settings=config.episode,
            max_model_len=config.engine.max_model_len,
            observer=observer,
        )
        try:
            return await episode.run()
        except EngineLost as error:
            self._lose(error)

    async def ping(self, timeout_s: float) -> None:
        """Return once the engine has answered.

        Raises:
            PolicyUnavailable: the engine is gone, or did not answer within `timeout_s` seconds.
        """
        try:
            await asyncio.wait_for(self.engine.ping(), timeout_s)
        except EngineLost as error:
            self._lose(error)
        except TimeoutError:
            self._lose(f"it did not answer within {timeout_s:g} s")
        self._failure = ""

    def check_health(self) -> None:
        """Raise `PolicyUnavailable` if the engine was dead or hung when it was last used."""
        if self._failure:
            raise PolicyUnavailable(self._failure)

    def _lose(self, why: EngineLost | str) -> NoReturn:
        does = "died" if isinstance(why, EngineDied) else "hangs"
        self._failure = f"the policy engine {does} ({why}); its log tells why"
        raise PolicyUnavailable(self._failure) from (why if isinstance(why, EngineLost) else None)

    def _request(self, ask: Ask) -> EpisodeRequest:
        rules = self.source.config.episode
        rename: Renaming = "seen" if rules.rename_cards else "off"
        return EpisodeRequest(
            question=Question(id="", dataset="ask", text=ask.question, answers=()),
            menu=draw_menu(self.cards, ask.seed, shuffle=rules.shuffle_cards, rename=rename),
            group="",  # belongs to no run: the ledger records its calls without a place in a run
            seed=ask.seed,
            sampling=ask.sampling,
            budget_usd=evaluation_budget(rules, str(ask.seed)),
        )


async def check_candidates(source: PolicySource, cards: Sequence[ModelCard]) -> None:
    """Check that every candidate's endpoint answers, and that calls can be recorded.

    Raises:
        PoolError: an endpoint does not answer, or its key is missing.
        LedgerError, RunIdError: the ledger can't be used.
    """
    caller = hire_caller(source, cards)
    try:
        await caller.check()
    finally:
        await caller.close()


def hire_caller(source: PolicySource, cards: Sequence[ModelCard]) -> CandidateCaller:
    """A caller that records its calls, so that caps count all questions to a policy, from all processes."""
    pool = source.config.candidates.pool
    books = open_books(pool, source.ledger, lambda: source.booked_as)
    return CandidateCaller(cards, pool, **books._asdict())


class _Allowance:
    """Generates for one episode until its tokens are used up; then each turn is empty and ends by length."""

    def __init__(self, engine: PolicyEngine, tokens: int) -> None:
        self._engine = engine
        self._left = tokens

    async def __call__(self, prompt_ids: list[int], *, max_tokens: int, **options: Any) -> Generation:
        if self._left == 0:
            return Generation([], [], [], "", "length")
        generation = await self._engine.generate(prompt_ids, max_tokens=min(max_tokens, self._left), **options)
        self._left -= len(generation.token_ids)
        return generation
