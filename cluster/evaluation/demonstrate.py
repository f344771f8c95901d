"""Demonstrating (`router-r1 demonstrate`): a teacher plays the policy's episodes; those that score well are kept."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.checkpoint_loading import read_tokenizer
from actors.episodes.episode import Episode, EpisodeRequest
from actors.episodes.remote_model import Player, Teacher, TeacherRefusal
from actors.episodes.trajectory import Trajectory
from actors.errors import ExplainedError
from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.questions.sources import load_sources
from cluster.config.settings import Config
from cluster.episodes.candidates import start_candidates
from cluster.episodes.judging import BudgetSpent, judge_all, spent_cap
from cluster.episodes.requests import readable_rules, training_requests
from cluster.episodes.source import QuestionSource
from cluster.runs.files import writing
from cluster.runs.line_file import append_line, mended_lines
from cluster.runs.policy_checkpoints import locate_checkpoint
from cluster.runs.run_id import keep_run_id
from learner.demonstrations import (
    Demonstration,
    DemonstrationEncoder,
    DemonstrationError,
    Segment,
    load_demonstrations,
)
from rewards.presets import Judge

_SAY_EVERY_S = 5.0
_MOST_FAILURES = 8  # episodes in a row that fail: then it is no accident
_FAILED = "failed: "  # begins why an episode has no outcome; it is played again


class DemonstrateError(ExplainedError, RuntimeError):
    """Demonstrations can't be made as asked for; the message names option, value and remedy."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is asked of the teacher."""

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

    def read_key(self) -> str | None:
        """The teacher's key.

        Raises:
            DemonstrateError: its variable is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise DemonstrateError(f"--api-key-env {self.api_key_env}: not set; export the teacher's API key in it")
        return key


class Record:
    """The demonstrations kept, and beside them a line for every episode played, to go on from, and the calls.

    `FILE.episodes.jsonl` holds id, reward, whether it was kept and why not, and what it took; `FILE.ledger.sqlite` the
    candidates' calls, unless `pool.ledger_url` names another ledger, booked under the id in `FILE.run_id`.
    """

    def __init__(self, out: Path) -> None:
        """Read what was played before; a last line cut short by a crash is dropped.

        Raises:
            DemonstrateError: the files can't be read or written.
        """
        self.out = out
        name = out.name.removesuffix(".jsonl")
        self.log = out.with_name(f"{name}.episodes.jsonl")
        self.ledger = out.with_name(f"{name}.ledger.sqlite")
        self.run_id_file = out.with_name(f"{name}.run_id")
        self.candidates_usd: float | None = None  # of all calls that the ledger knows, those of failed episodes too
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self.rows = [json.loads(line) for line in mended_lines(self.log)]
            ended = set(self.outcomes)
            kept = load_demonstrations([out]) if mended_lines(out) else []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DemonstrateError(f"--out {out}: it or {self.log} can't be used ({error}); give another") from error
        # A crash may have come between the two files.
        self.rows += [{"id": d.id, "kept": True, "why": "", **d.about} for d in kept if d.id not in ended]

    @property
    def outcomes(self) -> dict[str, dict[str, Any]]:
        """The row of each episode that came to an end, by id; the others are played again."""
        return {row["id"]: row for row in self.rows if not row["why"].startswith(_FAILED)}

    def add(self, row: dict[str, Any], demonstration: Demonstration | None) -> None:
        """Note an episode, and keep its demonstration if there is one.

        Raises:
            RunFolderError: they can't be written.
        """
        with writing(self.log, "what was played"):
            if demonstration is not None:
                append_line(self.out, demonstration.to_line())
            append_line(self.log, json.dumps(row, ensure_ascii=False))
        self.rows.append(row)

    def describe(self, assignment: Assignment) -> str:
        """What was kept and dropped so far, why, and what it cost, in a line."""
        ended = self.outcomes
        failed = {row["id"]: row["why"] for row in self.rows if row["id"] not in ended}
        whys = [*(row["why"] for row in ended.values() if not row["kept"]), *failed.values()]
        reasons = ", ".join(f"{whys.count(why)} {why}" for why in dict.fromkeys(whys))
        kept = sum(bool(row["kept"]) for row in ended.values())
        read, written = (sum(row.get(name, 0) for row in self.rows) for name in ("prompt_tokens", "completion_tokens"))
        teacher_usd = (read * assignment.price_in + written * assignment.price_out) / 1e6
        paid = f", ${teacher_usd:.4f}" if teacher_usd else ""
        candidates_usd = self.candidates_usd
        if candidates_usd is None:
            candidates_usd = sum(row.get("candidates_usd", 0.0) for row in self.rows)
        return (
            f"{len(ended)} of {assignment.episodes} episodes ended: {kept} kept, {len(whys)} not"
            f"{f' ({reasons})' if reasons else ''}; candidates ${candidates_usd:.4f}; "
            f"teacher {read} tokens read, {written} written{paid}"
        )


def play_all(config: Config, assignment: Assignment, say: Callable[[str], None]) -> Record:
    """Play the episodes that are not in the record yet; `say` hears of progress, and at the end what came of it.

    Raises:
        DemonstrateError: the key is missing, the file can't be used, or no episode comes to an end.
        TeacherError, PoolError, BudgetSpent: the teacher or the candidates can't be asked, or a cap is used up.
        LedgerError, RunIdError, RunFolderError: calls or episodes can't be recorded.
    """
    key = assignment.read_key()
    record = Record(assignment.out)
    questions = load_sources(config.data.train, limit=config.data.train_limit, two_hop_share=config.data.two_hop_share)
    checkpoint = locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")
    tokenizer = read_tokenizer(checkpoint)
    with start_candidates(config) as candidates:
        requests = _requests(config, questions, candidates.cards, assignment.episodes)
        waiting = [request for request in requests if _id(request, config) not in record.outcomes]
        if len(waiting) < len(requests):
            say(f"{len(requests) - len(waiting)} of {len(requests)} episodes were played before")
        judge = Judge(candidates.price_rewards(config))
        asyncio.run(_Classroom(config, assignment, record, tokenizer, judge, say).play(waiting, candidates.cards, key))
    say(record.describe(assignment))
    return record


class _Classroom:
    """What the episodes of one command share."""

    def __init__(
        self,
        config: Config,
        assignment: Assignment,
        record: Record,
        tokenizer: Any,
        judge: Judge,
        say: Callable[[str], None],
    ) -> None:
        self.config = config
        self.assignment = assignment
        self.record = record
        self.tokenizer = tokenizer
        self.encoder = DemonstrationEncoder(tokenizer, config.engine.max_model_len)
        self.judge = judge
        self.say = say
        self.failures = 0  # since an episode ended last
        self.said = time.monotonic()

    async def play(self, requests: Sequence[EpisodeRequest], cards: Sequence[ModelCard], key: str | None) -> None:
        """Play episodes, `concurrency` of them at a time; each is on disk once it has ended."""
        assignment = self.assignment
        teacher = Teacher(assignment.teacher, assignment.model, key=key, timeout_s=assignment.timeout_s)
        caller = self._hire_caller(cards)
        waiting = iter(requests)
        try:
            await caller.check()
            async with asyncio.TaskGroup() as group:
                for _ in range(min(assignment.concurrency, len(requests))):
                    group.create_task(self._play_some(waiting, teacher, caller))
        finally:
            self._count(caller)
            await caller.close()
            await teacher.close()

    def _hire_caller(self, cards: Sequence[ModelCard]) -> CandidateCaller:
        """A caller that records its calls, so that a command that goes on counts what was spent before."""
        pool = self.config.candidates.pool
        if pool.ledger == "off":
            return CandidateCaller(cards, pool)
        run = keep_run_id(self.record.run_id_file, self.record.out.stem)
        ledger_url = pool.ledger_url or str(self.record.ledger.absolute())
        return CandidateCaller(cards, pool, ledger_url=ledger_url, run=run)

    def _count(self, caller: CandidateCaller) -> None:
        if self.config.candidates.pool.ledger != "off":
            self.record.candidates_usd = float(sum(caller.stats().usd.values()))

    async def _play_some(self, waiting: Iterator[EpisodeRequest], teacher: Teacher, caller: CandidateCaller) -> None:
        for request in waiting:
            player = Player(teacher, self.tokenizer, request.prompt(readable_rules(self.config.episode)))
            episode = Episode(
                request,
                tokenizer=self.tokenizer,
                generate=player.generate,
                ask=caller.ask,
                settings=self.config.episode,
                max_model_len=self.config.engine.max_model_len,
                observer=player,
            )
            try:
                trajectory = await episode.run()
                self._count(caller)
                self._note(request, player, trajectory)
            except TeacherRefusal as refusal:
                self._fail(request, player, "the teacher's provider refused it", str(refusal))

    def _note(self, request: EpisodeRequest, player: Player, trajectory: Trajectory) -> None:
        if cap := spent_cap([trajectory]):
            raise BudgetSpent(f"{cap}. What was played is in {self.record.log}; the same command goes on")
        [judged] = judge_all([trajectory], self.judge)
        if judged.reward is None:
            call = next(call for call in judged.transcript.calls if call.status.is_infrastructure)
            self._fail(request, player, f"a call to {call.model} ended {call.status}", call.error, trajectory)
            return
        self.failures = 0
        row = self._row(request, player, trajectory) | {"reward": judged.reward.total}
        demonstration, why = None, ""
        if judged.reward.total >= self.assignment.min_reward:
            demonstration = demonstration_of(judged, player, row["id"], self.assignment.model)
            try:
                self.encoder.encode(demonstration)
            except DemonstrationError:
                demonstration, why = None, "beyond the policy's tokens"
        else:
            why = f"below --min-reward {self.assignment.min_reward:g}"
        self._add(row | {"kept": demonstration is not None, "why": why}, demonstration)

    def _fail(
        self,
        request: EpisodeRequest,
        player: Player,
        why: str,
        detail: str,
        trajectory: Trajectory | None = None,
    ) -> None:
        """Note an episode without an outcome.

        Raises:
            DemonstrateError: so many failed in a row that it is no accident.
        """
        self.failures += 1
        row = self._row(request, player, trajectory) | {"kept": False, "why": f"{_FAILED}{why}", "detail": detail}
        self._add(row, None)
        if self.failures >= _MOST_FAILURES:
            raise DemonstrateError(
                f"{self.failures} episodes in a row failed, the last as {why}: {detail}; mend that, then the same "
                "command goes on"
            )

    def _row(self, request: EpisodeRequest, player: Player, trajectory: Trajectory | None) -> dict[str, Any]:
        return {
            "id": _id(request, self.config),
            "question": request.question.id,
            "candidates_usd": trajectory.transcript.cost_usd if trajectory else 0.0,
            "prompt_tokens": player.prompt_tokens,
            "completion_tokens": player.completion_tokens,
        }

    def _add(self, row: dict[str, Any], demonstration: Demonstration | None) -> None:
        self.record.add(row, demonstration)
        if time.monotonic() - self.said >= _SAY_EVERY_S:
            self.said = time.monotonic()
            self.say(self.record.describe(self.assignment))


def demonstration_of(trajectory: Trajectory, player: Player, ident: str, teacher: str) -> Demonstration:
    """What the teacher played, under the prompt that the policy will read."""
    assert trajectory.reward is not None, "only judged trajectories are kept"
    return Demonstration(
        id=ident,
        prompt=trajectory.prompt,
        segments=tuple(
            Segment(message["content"], sampled=message["role"] == "assistant")
            for message in player.messages[1:]
            if message["content"]
        ),
        dataset=trajectory.question.dataset,
        about={
            "teacher": teacher,
            "question": trajectory.question.id,
            "reward": trajectory.reward.total,
            "candidates_usd": trajectory.transcript.cost_usd,
            "prompt_tokens": player.prompt_tokens,
            "completion_tokens": player.completion_tokens,
        },
    )


def _requests(
    config: Config, questions: list[Question], cards: Sequence[ModelCard], episodes: int
) -> list[EpisodeRequest]:
    """One episode of each of so many questions, drawn as training draws them."""
    single = config.model_copy(update={"run": config.run.model_copy(update={"group_size": 1})})
    drawn = QuestionSource(questions, config.run.seed).draw(episodes)
    return [replace(r, group=f"demonstration-{i}") for i, r in enumerate(training_requests(single, 0, drawn, cards))]


def _id(request: EpisodeRequest, config: Config) -> str:
    """Names an episode however many are asked for: its place in the draw, and the draw's seed."""
    return f"{request.question.id}/{config.run.seed}-{request.group.removeprefix('demonstration-')}"
