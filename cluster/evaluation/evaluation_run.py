"""The evaluation: the questions and rows of one, from what is in its folder to the table."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.baselines.router import HASHING
from benchmarks.baselines.rows import BaselineRow, Contest, make_rows, planned_rows
from benchmarks.baselines.verdicts import verdicts
from benchmarks.evaluation.evaluated import Evaluated, measures_of, sets_of
from benchmarks.evaluation.item import Item, Key
from benchmarks.evaluation.json_numbers import to_json
from benchmarks.evaluation.measure import HOLDS, MEANING
from benchmarks.evaluation.methods import BEST_CONSTANT_TRAINING, methods_of
from benchmarks.evaluation.old_names import row_of_today
from benchmarks.evaluation.pool_fingerprint import card_facts, fingerprint
from benchmarks.evaluation.pool_table import PoolTable
from benchmarks.evaluation.protocol import passes
from benchmarks.evaluation.published import published_rows, quote
from benchmarks.evaluation.row_summary import Against, against, summarise_row
from benchmarks.evaluation.table import render
from benchmarks.questions.sources import hop_count
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import EvaluateError, EvaluationOptions

Say = Callable[[str], None]
TellProgress = Callable[[int, int, float], None]  # done, in all, USD spent on candidates


@dataclass(slots=True)
class EvaluationRun:
    """One evaluation under way."""

    options: EvaluationOptions
    questions: Sequence[Question]
    cards: tuple[ModelCard, ...]
    folder: EvaluationFolder
    policy: str  # what plays; empty where there is none
    policy_rows: tuple[str, ...]
    notes: list[str]
    spent_usd: float = 0.0
    left_out: dict[str, str] | None = None  # baselines, and why
    routed: tuple[BaselineRow, ...] = ()  # the baselines that are there

    def run_baselines(self, names: Sequence[str], contest: Contest, told: TellProgress) -> list[str]:
        """Make the rows that are not whole yet; return all names in their order."""
        planned = planned_rows(names, self.options.lambdas, contest.train, self.options.embedding)
        keys = [(question.dataset, question.id, 0) for question in contest.questions]
        open_ = [row for row in planned if any((row.name, *key) not in self.folder.items for key in keys)]
        self.left_out = {}
        if embedded := list(dict.fromkeys(row.router for row in planned if row.embedding != HASHING)):
            self.notes.append(f"{', '.join(embedded)} embed questions by {self.options.embedding}")
        done = len(planned) - len(open_)
        for row, items, why in make_rows(contest, open_, self.options.seed):
            for item in items:
                self.folder.add(item)
            if why:
                self.left_out[row.name] = why
            done += 1
            told(done, len(planned), self.spent_usd)
        self.routed = tuple(row for row in planned if row.name not in self.left_out)
        return [row.name for row in self.routed]

    def finish(self, baselines: Sequence[str], pools: PoolTable | None = None) -> None:
        """Sum up what is in the folder, and write the table, with that of other pools of candidates if there is one.

        Raises:
            EvaluationError: a row came to nothing.
            EvaluateError: the row to compare with is not there.
        """
        by_row: dict[str, list[Item]] = {name: [] for name in (*self.policy_rows, *baselines)}
        for item in self.folder.items.values():
            if item.row in by_row:
                by_row[item.row].append(item)
        if not by_row:
            reasons = "; ".join(f"{name}: {why}" for name, why in (self.left_out or {}).items())
            raise EvaluateError(
                f"no row is left to show: {reasons or 'no policy and no baselines'}. Try other --baselines"
            )
        lost, resamples = self.folder.lost(), self.options.resamples
        rows = [summarise_row(name, items, lost=lost[name], resamples=resamples) for name, items in by_row.items()]
        reference = self._reference(list(by_row))
        notes = [*self.notes, *(pools.notes if pools else ())]
        notes += [f"{name} was left out: {why}" for name, why in (self.left_out or {}).items()]
        notes += _refusal_notes(by_row, self.folder.not_taken) + _hop_notes(self.questions)
        if len(measures := measures_of(rows)) > 1:
            notes.append(
                f"rows are scored by different measures: {'; '.join(f'{m}: {MEANING[m]}' for m in measures)}. Such "
                f"rows are compared by {HOLDS!r}, where it is known of both, and not by the numbers shown"
            )
        if total := sum(lost[name] for name in by_row):
            notes.append(
                f"{total} episodes failed (failures.jsonl) and count nowhere; the same command plays them again"
            )
        self.folder.keep_questions(self.questions)

        @cache  # of many questions it takes seconds
        def compared(reference: str, *names: str) -> dict[str, Against]:
            those = {name: by_row[name] for name in (reference, *(names or by_row))}
            return against(those, reference, resamples=resamples)

        found = Evaluated(
            about=self._about(),
            pool=fingerprint(self.cards),
            cards=card_facts(self.cards),
            rows=rows,
            against=compared(reference) if reference else {},
            quoted=[
                quote(row)
                for metric in ("em", "f1")
                for row in published_rows(metric, sets_of(rows), self.options.published)  # type: ignore[arg-type]
            ],
            notes=notes,
            verdicts=verdicts(rows, self.routed, self.policy_rows, compared),
            pools=pools,
        )
        table = render(f"Evaluation of {self.policy or self.options.target}", found)
        self.folder.finish(table, self._numbers(found))

    def _reference(self, names: Sequence[str]) -> str | None:
        against = self.options.against
        wanted = None if against is None else row_of_today(against)
        if wanted is not None and wanted not in names:
            raise EvaluateError(f"--against {wanted}: no such row; there are {', '.join(names)}")
        first = [name for name in (wanted, *self.policy_rows, BEST_CONSTANT_TRAINING) if name in names]
        return first[0] if first else (names[0] if names else None)

    def _about(self) -> dict[str, str]:
        options = self.options
        sets: dict[str, int] = {}
        for question in self.questions:
            sets[question.dataset] = sets.get(question.dataset, 0) + 1
        planned = passes(options.protocol, options.samples, options.budgets_usd) if self.policy else ()
        temperatures = "; ".join(f"{p.row}: {p.samples} at temperature {p.temperature:g}" for p in planned)
        asked = f"{len(self.questions)} questions: {', '.join(f'{name} {count}' for name, count in sets.items())}"
        return {
            "policy": self.policy or "none, baselines alone",
            "protocol": f"{options.protocol}{f' ({temperatures})' if temperatures else ''}",
            "asked": asked,
            "pool": f"`{fingerprint(self.cards)}`, {', '.join(card.name for card in self.cards)}",
        }

    def _numbers(self, found: Evaluated) -> dict[str, Any]:
        numbers: dict[str, Any] = {
            "about": found.about,
            "pool": {"fingerprint": found.pool, "cards": found.cards},
            "methods": {method.key: method.meaning for method in methods_of(row.name for row in found.rows)},
            "rows": found.rows,
            "against": found.against,
            "published_not_measured": [
                {"label": row.label, "metric": row.metric, "table": row.table, "scores": row.scores,
                 "average": row.average}
                for row in found.quoted
            ],
            "notes": found.notes,
            "verdicts": found.verdicts,
            "spent_usd": self.spent_usd,
        }  # fmt: skip
        if found.pools:
            numbers["pools"] = found.pools
        plain: dict[str, Any] = to_json(numbers)
        return plain


def what_is_asked(
    options: EvaluationOptions,
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    *,
    policy: str,
    rules: Mapping[str, Any],
) -> dict[str, Any]:
    """What makes an evaluation this one and no other."""
    return {
        "target": policy or options.target,
        "protocol": options.protocol,
        "samples": options.samples,
        "questions": fingerprint_questions(questions),
        "pool": fingerprint(cards),
        "seed": options.seed,
        "rules": dict(rules),
    }


def fingerprint_questions(questions: Sequence[Question]) -> str:
    """How many they are, and a digest of them and of their answers."""
    texts = json.dumps([(q.dataset, q.id, q.text, q.answers) for q in questions])
    return f"{len(questions)}, {hashlib.blake2b(texts.encode(), digest_size=6).hexdigest()}"


def check_answerable(questions: Sequence[Question], serve: str) -> None:
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


def _refusal_notes(by_row: Mapping[str, Sequence[Item]], not_taken: Mapping[Key, str]) -> list[str]:
    notes = []
    for name, items in by_row.items():
        those = [(key, why) for key, why in not_taken.items() if key[0] == name]
        if those:
            (_, _, question, _), why = those[0]
            notes.append(
                f"{name}: {len(those)} of {len(items)} episodes ended at a prompt that the policy's model did not "
                f"take, and count as wrong, such as that of question {question!r}: {why}"
            )
    return notes


def _hop_notes(questions: Sequence[Question]) -> list[str]:
    unknown = Counter(question.dataset or "no data set" for question in questions if hop_count(question) is None)
    if not unknown:
        return []
    sets = ", ".join(f"{name} {count}" for name, count in unknown.items())
    return [
        f"{unknown.total()} of {len(questions)} questions have no known hop count and are in no row by hops: {sets}"
    ]
