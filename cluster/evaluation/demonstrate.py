"""Demonstrating (`router-r1 demonstrate`): a teacher plays the policy's episodes, and those with a high reward stay."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from actors.api_keys import read_option_key
from actors.episodes.episode import EpisodeRequest
from actors.episodes.remote_model import Conversation
from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError
from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.questions.sources import load_sources
from cluster.config.settings import Config
from cluster.episodes.candidates import open_books, start_candidates
from cluster.episodes.judging import judge_all
from cluster.episodes.requests import training_requests
from cluster.episodes.source import QuestionSource
from cluster.evaluation.playing import play_all
from cluster.players.players import ChatEndpoint, ChatPolicy, PlayedEpisode, Refused
from cluster.runs.files import append_line, mended_lines, writing
from cluster.runs.run_id import keep_run_id
from learner.demonstrations import (
    Demonstration,
    DemonstrationEncoder,
    DemonstrationError,
    Segment,
    load_demonstrations,
)
from rewards.presets import Judge
from rewards.settings import RewardSettings
from rewards.transcript import RouteCall

_SAY_EVERY_S = 5.0
_FAILED = "failed: "  # begins the reason of a failed episode, which the next command plays again


class DemonstrateError(ExplainedError, RuntimeError):
    """Demonstrations can't be made with these options; the message names option, value and remedy."""


@dataclass(frozen=True, slots=True)
class DemonstrationOptions:
    """The options of the command."""

    teacher: str  # base URL
    model: str
    out: Path
    episodes: int = 100
    min_reward: float = 0.5
    api_key_env: str | None = None
    concurrency: int = 16
    timeout_s: float = 120.0
    price_in: float = 0.0  # teacher's USD per million tokens
    price_out: float = 0.0

    def endpoint(self) -> ChatEndpoint:
        """The teacher's endpoint.

        Raises:
            DemonstrateError: the environment variable of its key is not set.
        """
        key = read_option_key(self.api_key_env, DemonstrateError)
        return ChatEndpoint(self.teacher, self.model, key, self.timeout_s, self.price_in, self.price_out)


class Record:
    """The files of a command: its demonstrations, its played episodes and its calls.

    `FILE.episodes.jsonl` has a line for each played episode: id, reward, whether it was kept, the reason if not, and
    its cost. The same command continues from it. `FILE.ledger.sqlite` holds the candidates' calls, unless
    `pool.ledger_url` names another ledger. The calls are booked under the run id in `FILE.run_id`.
    """

    def __init__(self, out: Path) -> None:
        """Read the episodes of earlier commands; an incomplete last line, left by a crash, is removed.

        Raises:
            DemonstrateError: the files can't be read or written.
        """
        self.out = out
        name = out.name.removesuffix(".jsonl")
        self.log = out.with_name(f"{name}.episodes.jsonl")
        self.ledger = out.with_name(f"{name}.ledger.sqlite")
        self.run_id_file = out.with_name(f"{name}.run_id")
        self.candidates_usd: float | None = None  # of all calls in the ledger, including failed episodes'
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self.rows = [json.loads(line) for line in mended_lines(self.log)]
            ended = set(self.outcomes)
            kept = load_demonstrations([out]) if mended_lines(out) else []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DemonstrateError(f"--out {out}: it or {self.log} can't be used ({error}); give another") from error
        # After a crash a demonstration may lack its line in the log, which is written second.
        self.rows += [{"id": d.id, "kept": True, "why": "", **d.about} for d in kept if d.id not in ended]

    @property
    def outcomes(self) -> dict[str, dict[str, Any]]:
        """By id, the row of each finished episode; failed ones are played again."""
        return {row["id"]: row for row in self.rows if not row["why"].startswith(_FAILED)}

    def add(self, row: dict[str, Any], demonstration: Demonstration | None) -> None:
        """Write the row of an episode, and its demonstration if there is one.

        Raises:
            RunFolderError: a file can't be written.
        """
        with writing(self.log, "what was played"):
            if demonstration is not None:
                append_line(self.out, demonstration.to_line())
            append_line(self.log, json.dumps(row, ensure_ascii=False))
        self.rows.append(row)

    def describe(self, options: DemonstrationOptions) -> str:
        """A line with the kept and dropped episodes so far, the reasons, and the cost."""
        ended = self.outcomes
        failed = {row["id"]: row["why"] for row in self.rows if row["id"] not in ended}
        whys = [*(row["why"] for row in ended.values() if not row["kept"]), *failed.values()]
        reasons = ", ".join(f"{whys.count(why)} {why}" for why in dict.fromkeys(whys))
        kept = sum(bool(row["kept"]) for row in ended.values())
        read, written = (sum(row.get(name, 0) for row in self.rows) for name in ("prompt_tokens", "completion_tokens"))
        teacher_usd = (read * options.price_in + written * options.price_out) / 1e6
        paid = f", ${teacher_usd:.4f}" if teacher_usd else ""
        candidates_usd = self.candidates_usd
        if candidates_usd is None:
            candidates_usd = sum(row.get("candidates_usd", 0.0) for row in self.rows)
        return (
            f"{len(ended)} of {options.episodes} episodes ended: {kept} kept, {len(whys)} not"
            f"{f' ({reasons})' if reasons else ''}; candidates ${candidates_usd:.4f}; "
            f"teacher {read} tokens read, {written} written{paid}"
        )


def make_demonstrations(config: Config, options: DemonstrationOptions, say: Callable[[str], None]) -> Record:
    """Play the episodes that are not in the record yet; `say` gets lines on progress and on the result.

    Raises:
        DemonstrateError: the key is missing, the file can't be used, or too many episodes in a row fail.
        RemoteModelError, PoolError, BudgetSpent: the teacher or the candidates can't be reached, or a cap is used up.
        LedgerError, RunIdError, RunFolderError: calls or episodes can't be recorded.
    """
    endpoint = options.endpoint()
    record = Record(options.out)
    questions = load_sources(config.data.train, limit=config.data.train_limit, two_hop_share=config.data.two_hop_share)
    with start_candidates(config) as candidates:
        drawn = _requests(config, questions, candidates.cards, options.episodes)
        waiting = [each for each in drawn if each.id not in record.outcomes]
        if len(waiting) < len(drawn):
            say(f"{len(drawn) - len(waiting)} of {len(drawn)} episodes were played before")
        pool = config.candidates.pool
        books = open_books(pool, record.ledger, lambda: keep_run_id(record.run_id_file, record.out.stem))
        caller = CandidateCaller(candidates.cards, pool, **books._asdict())
        teacher = ChatPolicy(endpoint, config, caller)
        keeper = _DemonstrationKeeper(config, options, record, teacher, caller, candidates.price_rewards(config), say)
        try:
            asyncio.run(play_all(teacher, waiting, keeper, concurrency=options.concurrency))
        finally:
            keeper.add_up()
    say(record.describe(options))
    return record


@dataclass(frozen=True, slots=True)
class _NumberedRequest:
    """An episode to play; its id does not depend on the number of episodes."""

    id: str
    request: EpisodeRequest


class _DemonstrationKeeper:
    """Keeps the demonstrations of one command in its record, and reports its progress from time to time."""

    error: type[ExplainedError] = DemonstrateError

    def __init__(
        self,
        config: Config,
        options: DemonstrationOptions,
        record: Record,
        teacher: ChatPolicy,
        caller: CandidateCaller,
        rewards: RewardSettings,
        say: Callable[[str], None],
    ) -> None:
        self.place = record.log
        self._config, self._options, self._record = config, options, record
        self._teacher, self._caller, self._judge, self._say = teacher, caller, Judge(rewards), say
        self._said = time.monotonic()

    @cached_property
    def _encoder(self) -> DemonstrationEncoder:
        return DemonstrationEncoder(self._teacher.tokenizer, self._config.engine.max_model_len)

    def keep(self, episode: _NumberedRequest, played: PlayedEpisode) -> None:
        [judged] = judge_all([played.trajectory], self._judge)
        assert judged.reward is not None, "only void episodes have no reward"
        row = _row(episode, played.conversation, played.trajectory) | {"reward": judged.reward.total}
        demonstration, why = None, ""
        if judged.reward.total >= self._options.min_reward:
            assert played.conversation is not None, "the teacher is a model at an endpoint"
            demonstration = demonstration_of(judged, played.conversation, episode.id, self._options.model)
            try:
                self._encoder.encode(demonstration)
            except DemonstrationError:
                demonstration, why = None, "beyond the policy's tokens"
        else:
            why = f"below --min-reward {self._options.min_reward:g}"
        self._add(row | {"kept": demonstration is not None, "why": why}, demonstration)

    def refuse(self, episode: _NumberedRequest, refused: Refused) -> str:
        # Without a conversation the teacher was never asked.
        why = "the prompt is too long" if refused.conversation is None else "the teacher's provider refused it"
        return self._fail(_row(episode, refused.conversation), why, str(refused))

    def fail(self, episode: _NumberedRequest, played: PlayedEpisode, call: RouteCall) -> str:
        row = _row(episode, played.conversation, played.trajectory)
        return self._fail(row, f"a call to {call.model} ended {call.status}", call.error)

    def finish(self) -> None:
        """Do nothing: each episode was kept when it ended."""

    def add_up(self) -> None:
        """Update the candidates' cost so far, if there is a ledger."""
        if self._config.candidates.pool.ledger != "off":
            self._record.candidates_usd = float(sum(self._caller.stats().usd.values()))

    def _fail(self, row: dict[str, Any], why: str, detail: str) -> str:
        self._add(row | {"kept": False, "why": f"{_FAILED}{why}", "detail": detail}, None)
        return f"{why}: {detail}"

    def _add(self, row: dict[str, Any], demonstration: Demonstration | None) -> None:
        self.add_up()
        self._record.add(row, demonstration)
        if time.monotonic() - self._said >= _SAY_EVERY_S:
            self._said = time.monotonic()
            self._say(self._record.describe(self._options))


def _row(episode: _NumberedRequest, talk: Conversation | None, trajectory: Trajectory | None = None) -> dict[str, Any]:
    """The fields of every episode's row; there is no conversation if the first prompt was already too long."""
    return {
        "id": episode.id,
        "question": episode.request.question.id,
        "candidates_usd": trajectory.transcript.cost_usd if trajectory else 0.0,
        "prompt_tokens": talk.prompt_tokens if talk else 0,
        "completion_tokens": talk.completion_tokens if talk else 0,
    }


def demonstration_of(trajectory: Trajectory, talk: Conversation, ident: str, teacher: str) -> Demonstration:
    """The teacher's episode as a demonstration, with the prompt that the policy will read."""
    assert trajectory.reward is not None, "only judged trajectories are kept"
    return Demonstration(
        id=ident,
        prompt=trajectory.prompt,
        segments=tuple(
            Segment(message["content"], sampled=message["role"] == "assistant")
            for message in talk.messages[1:]
            if message["content"]
        ),
        dataset=trajectory.question.dataset,
        about={
            "teacher": teacher,
            "question": trajectory.question.id,
            "reward": trajectory.reward.total,
            "candidates_usd": trajectory.transcript.cost_usd,
            "prompt_tokens": talk.prompt_tokens,
            "completion_tokens": talk.completion_tokens,
        },
    )


def _requests(
    config: Config, questions: list[Question], cards: Sequence[ModelCard], episodes: int
) -> list[_NumberedRequest]:
    """One episode for each of `episodes` questions, drawn as in training.

    An episode's id is the question's id, the seed of the draw and the number in the draw.
    """
    single = config.model_copy(update={"run": config.run.model_copy(update={"group_size": 1})})
    drawn = QuestionSource(questions, config.run.seed).draw(episodes)
    return [
        _NumberedRequest(
            f"{each.question.id}/{config.run.seed}-{number}", replace(each, group=f"demonstration-{number}")
        )
        for number, each in enumerate(training_requests(single, 0, drawn, cards))
    ]
