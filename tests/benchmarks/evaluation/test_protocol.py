"""Protocols: every machine draws the same questions, and two questions never share a key."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from actors.questions import Question, QuestionError
from benchmarks.evaluation.protocol import draw, load_questions, passes
from benchmarks.questions.flashrag import SETS

MANY = [Question(f"q{n}", "nq", f"question {n}", ("x",)) for n in range(1200)]


def write(path: Path, count: int, **more: object) -> str:
    rows = [{"id": f"q{n}", "question": f"question {n}", "answers": ["x"]} | more for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_papers_draw_is_500_with_seed_42() -> None:
    drawn = draw("paper", MANY)
    assert sorted(random.Random(42).sample(range(1200), 500)) == [int(q.id[1:]) for q in drawn]
    assert draw("full", MANY) == MANY
    assert draw("paper", MANY[:125]) == MANY[:125]


def test_passes() -> None:
    assert [(p.temperature, p.samples) for p in passes("paper", None)] == [(1.0, 1)]
    assert [(p.temperature, p.samples) for p in passes("paper", 4)] == [(1.0, 4)]
    assert [(p.temperature, p.samples) for p in passes("full", None)] == [(0.0, 1)]
    assert [(p.temperature, p.samples) for p in passes("full", 8)] == [(0.0, 1), (1.0, 8)]
    assert {p.budget_usd for p in passes("full", 8)} == {None}


def test_every_pass_is_made_under_every_budget() -> None:
    assert [(p.row, p.temperature, p.samples, p.budget_usd) for p in passes("full", 8, (1e-4, 0.5))] == [
        ("policy, budget=0.0001", 0.0, 1, 1e-4),
        ("policy, sampled, budget=0.0001", 1.0, 8, 1e-4),
        ("policy, budget=0.5", 0.0, 1, 0.5),
        ("policy, sampled, budget=0.5", 1.0, 8, 0.5),
    ]


def test_sets_are_loaded_in_turn_each_limited(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", 30) for name in ("one", "two")]
    found = load_questions("paper", files, limit=3)
    assert [(q.dataset, q.id) for q in found] == [(name, f"q{n}") for name in ("one", "two") for n in range(3)]


def test_seven_stands_for_the_papers_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def load(source: str, **_: object) -> list[Question]:
        seen.append(source)
        return [Question("q", source, "x", ("y",))]

    monkeypatch.setattr("benchmarks.evaluation.protocol.load_source", load)
    assert len(load_questions("paper", ["seven"])) == 7
    assert seen == list(SETS)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"answers": []}, "leave out questions without answers"),
        ({"question": None}, "field 'question' must be a non-empty string"),
    ],
)
def test_what_can_not_be_asked_is_refused(tmp_path: Path, rows: dict[str, object], message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        load_questions("full", [write(tmp_path / "q.jsonl", 2, **rows)])


def test_a_missing_column_a_missing_set_and_a_set_named_twice_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", 2)
    with pytest.raises(QuestionError, match="no column 'gold' for answers; its columns: id, question, answers"):
        load_questions("full", [f"{file}:answers=gold"])
    with pytest.raises(QuestionError, match="'nosuchset': unknown; give world:train"):
        load_questions("full", ["nosuchset"])
    with pytest.raises(QuestionError, match="id 'q0' of data set 'q' comes twice; name each set once"):
        load_questions("full", [file, file])
    with pytest.raises(QuestionError, match="no data set named"):
        load_questions("full", [])
