"""Evaluating (`router-r1 evaluate`): a policy and the baselines on the same questions, item by item, to one table."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.baseline_rows import Contest, chosen_names, make_rows, planned_rows
from benchmarks.baselines.report import REFERENCE
from benchmarks.contests import recorded_contest, world_contest
from benchmarks.evaluation_table import Evaluated, published_rows, render
from benchmarks.item import Item
from benchmarks.pool_fingerprint import card_facts, fingerprint
from benchmarks.protocol import load_questions, passes
from benchmarks.row_summary import against, summarise_row
from cluster.candidates import start_candidates
from cluster.config import Config
from cluster.evaluation_folder import EvaluationFolder
from cluster.evaluation_policy import ChatPolicy, EnginePolicy, EvaluateError, Policy, Waiting, episodes_of, play_all
from cluster.evaluation_target import RECORDED, WORLD, Assignment, Target, open_target, pool_notes
from cluster.ledger_place import prepare_ledger
from cluster.live_contest import policy_contest
from cluster.run_id import keep_run_id

Say = Callable[[str], None]
Told = Callable[[int, int, float], None]  # done, in all, USD spent on candidates


@dataclass(slots=True)
class _Evaluation:
    """One evaluation under way."""

    assignment: Assignment
    questions: Sequence[Question]
    cards: tuple[ModelCard, ...]
    folder: EvaluationFolder
    policy: str  # what plays; empty where there is none
    policy_rows: tuple[str, ...]
    notes: list[str]
    spent_usd: float = 0.0
    left_out: dict[str, str] | None = None  # baselines, and why

    def run_baselines(self, names: Sequence[str], contest: Contest, told: Told) -> list[str]:
        """Make the rows that are not whole yet; return all names in their order."""
        planned = planned_rows(names, self.assignment.lambdas, contest.train)
        keys = [(question.dataset, question.id, 0) for question in contest.questions]
        open_ = [row for row in planned if any((row.name, *key) not in self.folder.items for key in keys)]
        self.left_out = {}
        done = len(planned) - len(open_)
        for row, items, why in make_rows(contest, open_, self.assignment.seed):
            for item in items:
                self.folder.add(item)
            if why:
                self.left_out[row.name] = why
            done += 1
            told(done, len(planned), self.spent_usd)
        return [row.name for row in planned if row.name not in self.left_out]

    def finish(self, baselines: Sequence[str]) -> None:
        """Sum up what is in the folder, and write the table.

        Raises:
            EvaluationError: a row came to nothing.
            EvaluateError: the row to compare with is not there.
        """
        by_row: dict[str, list[Item]] = {name: [] for name in (*self.policy_rows, *baselines)}
        for item in self.folder.items.values():
            if item.row in by_row:
                by_row[item.row].append(item)
        lost, resamples = self.folder.lost(), self.assignment.resamples
        rows = [summarise_row(name, items, lost=lost[name], resamples=resamples) for name, items in by_row.items()]
        reference = self._reference(list(by_row))
        notes = self.notes + [f"{name} was left out: {why}" for name, why in (self.left_out or {}).items()]
        if total := sum(lost[name] for name in by_row):
            notes.append(
                f"{total} episodes failed (failures.jsonl) and count nowhere; the same command plays them again"
            )
        found = Evaluated(
            title=f"Evaluation of {self.policy or self.assignment.target}",
            about=self._about(),
            pool=fingerprint(self.cards),
            rows=rows,
            against=against(by_row, reference, resamples=resamples) if reference else {},
            published=self.assignment.published,
            notes=notes,
        )
        self.folder.finish(render(found), self._numbers(found))

    def _reference(self, names: Sequence[str]) -> str | None:
        wanted = self.assignment.against
        if wanted is not None and wanted not in names:
            raise EvaluateError(f"--against {wanted}: no such row; there are {', '.join(names)}")
        first = [name for name in (wanted, *self.policy_rows, REFERENCE) if name in names]
        return first[0] if first else (names[0] if names else None)

    def _about(self) -> dict[str, str]:
        assignment = self.assignment
        sets: dict[str, int] = {}
        for question in self.questions:
            sets[question.dataset] = sets.get(question.dataset, 0) + 1
        planned = passes(assignment.protocol, assignment.samples) if self.policy else ()
        temperatures = "; ".join(f"{p.row}: {p.samples} at temperature {p.temperature:g}" for p in planned)
        asked = f"{len(self.questions)} questions: {', '.join(f'{name} {count}' for name, count in sets.items())}"
        return {
            "policy": self.policy or "none, baselines alone",
            "protocol": f"{assignment.protocol}{f' ({temperatures})' if temperatures else ''}",
            "asked": asked,
            "pool": f"`{fingerprint(self.cards)}`, {', '.join(card.name for card in self.cards)}",
        }

    def _numbers(self, found: Evaluated) -> dict[str, Any]:
        papers = [
            {"label": row.label, "metric": row.metric, "table": row.table, "scores": row.scores, "average": row.average}
            for metric in ("em", "f1")
            for row in published_rows(metric, found.sets, found.published)  # type: ignore[arg-type]
        ]
        numbers = {
            "about": found.about,
            "pool": {"fingerprint": found.pool, "cards": card_facts(self.cards)},
            "rows": [asdict(row) for row in found.rows],
            "against": {name: asdict(row) for name, row in found.against.items()},
            "published_not_measured": papers,
            "notes": found.notes,
            "spent_usd": self.spent_usd,
        }
        plain: dict[str, Any] = _without_nan(numbers)
        return plain


def evaluate(assignment: Assignment, say: Say, told: Told) -> Path:
    """Evaluate, and return the folder with items, numbers and table; what is there already is not asked again.

    Raises:
        EvaluateError, EvaluationError: options contradict each other, or nothing came of it.
        RunFolderError: the folder or the checkpoint can't be used.
        QuestionError, RepliesError, ReplyTableError, RouterError: questions, replies or baselines can't be had.
        PoolError, LedgerError, TeacherError, BudgetSpent, and others of `play_all`.
    """
    assignment.check()
    names = chosen_names(assignment.baselines)
    if assignment.is_table:
        return _evaluate_tables(assignment, names, told)
    return _evaluate_policy(assignment, names, say, told)


def _evaluate_tables(assignment: Assignment, names: Sequence[str], told: Told) -> Path:
    if not names:
        raise EvaluateError(f"--baselines none with {assignment.target} leaves no row; name some, or all")
    if assignment.target == WORLD:
        sets = assignment.datasets or ("world:heldout",)
        questions = load_questions(assignment.protocol, sets, limit=assignment.limit)
        _check_answerable(questions, WORLD)
        contest, name = world_contest(questions), WORLD
    else:
        file = Path(assignment.target.removeprefix(RECORDED))
        contest = recorded_contest(
            file, assignment.datasets, assignment.protocol, limit=assignment.limit, seed=assignment.seed
        )
        name = file.stem
    cards, questions = contest.test.cards, list(contest.questions)
    out = assignment.out or Path("runs") / "evaluations" / f"{name}-{assignment.protocol}"
    folder = EvaluationFolder(out, _asked(assignment, questions, cards, policy="", rules={}))
    try:
        notes = [f"{len(contest.train)} questions to learn from; {contest.test.note}"]
        if assignment.target != WORLD:
            notes.append("right is what the file says is right, where it does: a judgement or a score, not exact match")
        evaluation = _Evaluation(assignment, questions, cards, folder, "", (), notes)
        evaluation.finish(evaluation.run_baselines(names, contest, told))
    finally:
        folder.close()
    return out


def _evaluate_policy(assignment: Assignment, names: Sequence[str], say: Say, told: Told) -> Path:
    target = open_target(assignment)
    config = target.config
    questions = load_questions(
        assignment.protocol,
        assignment.datasets or config.data.eval,
        limit=assignment.limit,
        two_hop_share=config.data.two_hop_share,
    )
    _check_answerable(questions, config.candidates.serve)
    planned = passes(assignment.protocol, assignment.samples)
    out = assignment.out or config.run.folder / "evaluations" / f"{target.file_name}-{assignment.protocol}"
    with start_candidates(config) as candidates:
        cards = candidates.cards
        rules = config.episode.model_dump(mode="json") | {"menus": config.run.seed}
        folder = EvaluationFolder(out, _asked(assignment, questions, cards, policy=target.identity, rules=rules))
        notes = pool_notes(target, cards)
        for note in notes:
            say(f"note: {note}")
        rows = tuple(each.row for each in planned)
        evaluation = _Evaluation(assignment, questions, cards, folder, target.identity, rows, notes)
        try:
            episodes = episodes_of(config, planned, questions, cards)
            _play(target, episodes, evaluation, say, told)
            baselines: list[str] = []
            if names:
                found = policy_contest(
                    config, questions, cards, assignment, lambda: _hire(config, cards, folder), say, told
                )
                notes += found.notes
                evaluation.spent_usd = max(evaluation.spent_usd, found.spent_usd)
                if found.contest is not None:
                    baselines = evaluation.run_baselines(names, found.contest, told)
            evaluation.finish(baselines)
        finally:
            folder.close()
    return out


def _play(target: Target, episodes: Sequence[Waiting], evaluation: _Evaluation, say: Say, told: Told) -> None:
    """Play the episodes that have no item yet."""
    folder, assignment = evaluation.folder, evaluation.assignment
    waiting = [each for each in episodes if each.key not in folder.items]
    done = len(episodes) - len(waiting)
    if done:
        say(f"{done} of {len(episodes)} episodes were played before")
    if not waiting:
        evaluation.spent_usd = folder.spent_before()
        return
    caller = _hire(target.config, evaluation.cards, folder)

    def tell() -> None:
        nonlocal done
        done += 1
        evaluation.spent_usd = float(sum(caller.stats().usd.values()))
        told(done, len(episodes), evaluation.spent_usd)

    policy = _policy(target, evaluation.cards, caller)
    concurrency = assignment.concurrency or target.concurrency
    asyncio.run(play_all(policy, waiting, folder, concurrency=concurrency, told=tell))


def _policy(target: Target, cards: Sequence[ModelCard], caller: CandidateCaller) -> Policy:
    if target.endpoint is not None:
        return ChatPolicy(target.endpoint, target.config, caller)
    assert target.source is not None
    return EnginePolicy(target.source, cards, caller)


def _hire(config: Config, cards: Sequence[ModelCard], folder: EvaluationFolder) -> CandidateCaller:
    """A caller whose calls have stable places in the folder's ledger, so that none is paid for twice."""
    pool = config.candidates.pool
    if pool.ledger == "off":
        return CandidateCaller(cards, pool)
    run = keep_run_id(folder.run_id_file, f"evaluation-{folder.path.resolve().name}")
    return CandidateCaller(cards, pool, ledger_url=pool.ledger_url or prepare_ledger(folder.ledger), run=run)


def _asked(
    assignment: Assignment,
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    *,
    policy: str,
    rules: Mapping[str, Any],
) -> dict[str, Any]:
    """What makes an evaluation this one and no other."""
    texts = json.dumps([(q.dataset, q.id, q.text, q.answers) for q in questions])
    return {
        "target": policy or assignment.target,
        "protocol": assignment.protocol,
        "samples": assignment.samples,
        "questions": f"{len(questions)}, {hashlib.blake2b(texts.encode(), digest_size=6).hexdigest()}",
        "pool": fingerprint(cards),
        "seed": assignment.seed,
        "rules": dict(rules),
    }


def _check_answerable(questions: Sequence[Question], serve: str) -> None:
    """Check that the world's experts are asked about the world, and nobody else is.

    Raises:
        EvaluateError: it is otherwise.
    """
    strange = next((q for q in questions if q.dataset.startswith("world-") != (serve == "world")), None)
    if strange is not None:
        raise EvaluateError(
            f"--datasets: {strange.dataset or strange.id!r} with candidates.serve={serve}: only the world's experts "
            "can answer the world's questions, and nothing else; name other data sets, or other candidates by --recipe "
            "or --set candidates.serve=none --set candidates.pool.cards=FILE"
        )


def _without_nan(value: Any) -> Any:
    """As JSON takes it: a number that is not known is None."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
