"""`data prepare`: the draw, the report, and the errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import DATA, needs_data
from typer.testing import CliRunner

from actors.question_files import load_questions
from actors.questions import Question, QuestionError
from benchmarks.questions.training_set import Part, build, normal_text
from cluster.cli.app import app

RUNNER = CliRunner()


def questions(name: str, *texts: str) -> list[dict[str, object]]:
    return [{"id": f"{name}-{n}", "dataset": name, "question": text, "answers": ["x"]} for n, text in enumerate(texts)]


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    a = questions("a", "Who is it?", "who is it", "What?", "Where?", "When was  A.B. born")
    a.append({"id": "a-9", "dataset": "a", "question": "Why?", "answers": []})
    b = questions("b", "WHAT", "How?", "How much?", "when was a b born?")
    return [
        write(tmp_path / "a.jsonl", a),
        write(tmp_path / "b.jsonl", b),
        write(tmp_path / "test.jsonl", questions("t", "where", "else")),
    ]


def prepare(file: Path, sources: list[str], *more: str) -> tuple[list[Question], dict[str, object]]:
    command = ["data", "prepare", str(file), "--from", sources[0], "--from", sources[1], "--against", sources[2], *more]
    done = RUNNER.invoke(app, [*command, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(file.with_name(f"{file.stem}.report.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == report
    return load_questions(file), report


def test_troubles_are_counted_and_left_in(tmp_path: Path, sources: list[str]) -> None:
    found, report = prepare(tmp_path / "train.jsonl", sources)
    a, b = report["sources"]  # type: ignore[misc]
    assert (a["rows"], a["empty_answers"], a["duplicates"], a["in_earlier_sources"]) == (6, 1, 1, 0)
    assert (b["rows"], b["empty_answers"], b["duplicates"], b["in_earlier_sources"]) == (4, 0, 0, 2)
    assert (a["overlap"], b["overlap"]) == ({sources[2]: 1}, {sources[2]: 0})
    assert (a["asked"], a["left"], a["taken"], b["taken"]) == (7000, 5, 5, 4)
    assert (report["questions"], report["duplicates_left"], report["overlap_left"]) == (9, 3, {sources[2]: 1})
    assert report["examples"]["duplicates"] == ["a-1: who is it"]  # type: ignore[index]
    assert report["examples"]["empty answers"] == [f"{sources[0]}, line 6"]  # type: ignore[index]
    assert {q.id for q in found} == {f"a-{n}" for n in range(5)} | {f"b-{n}" for n in range(4)}


def test_troubles_can_be_dropped(tmp_path: Path, sources: list[str]) -> None:
    found, report = prepare(tmp_path / "train.jsonl", sources, "--drop", "duplicates", "--drop", "overlap")
    assert {q.id for q in found} == {"a-0", "a-2", "a-4", "b-1", "b-2"}
    assert (report["duplicates_left"], report["overlap_left"]) == (0, {sources[2]: 0})
    assert report["dropped"] == ["duplicates", "overlap"]


def test_a_draw_is_seeded_mixed_and_counted_by_source(tmp_path: Path) -> None:
    sources = [
        write(tmp_path / "a.jsonl", questions("a", *(f"a{n}?" for n in range(200)))),
        write(tmp_path / "b.jsonl", questions("b", *(f"b{n}?" for n in range(200)))),
        write(tmp_path / "t.jsonl", questions("t", "t?")),
    ]
    first, _ = prepare(tmp_path / "one.jsonl", sources, "--count", "50", "--count", "30")
    again, _ = prepare(tmp_path / "two.jsonl", sources, "--count", "50", "--count", "30")
    other, _ = prepare(tmp_path / "three.jsonl", sources, "--count", "50", "--count", "30", "--seed", "1")
    assert first == again
    assert {q.id for q in first} != {q.id for q in other}
    assert [sum(q.dataset == name for q in first) for name in "ab"] == [50, 30]
    assert 10 < sum(q.dataset == "a" for q in first[:40]) < 40  # mixed
    both, _ = prepare(tmp_path / "four.jsonl", sources, "--count", "20")
    assert len(both) == 40


def test_the_table_and_its_warnings_are_for_reading(tmp_path: Path, sources: list[str]) -> None:
    command = ["data", "prepare", str(tmp_path / "train.jsonl"), "--from", sources[0], "--against", sources[2]]
    done = RUNNER.invoke(app, command, catch_exceptions=False)
    assert "a.jsonl" in done.stdout
    assert "also in" in done.stdout
    assert "test.jsonl" in done.stdout
    assert "7,000 questions were wanted, but there are only 5" in done.stderr
    assert "1 duplicates are in the set; --drop duplicates" in done.stderr
    assert "1 questions are also in" in done.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", "1", "--count", "2", "--count", "3"], "--count: 3 for 2 sources"),
        (["--from", "SAME"], "and 4 more are given by two sources; number the rows of one"),
    ],
)
def test_what_can_not_be_prepared_is_named(tmp_path: Path, sources: list[str], more: list[str], message: str) -> None:
    more = [sources[0] if word == "SAME" else word for word in more]
    command = ["data", "prepare", str(tmp_path / "o.jsonl"), "--from", sources[0], "--from", sources[1], *more]
    with pytest.raises(QuestionError, match=message):
        RUNNER.invoke(app, command, catch_exceptions=False)
    assert not (tmp_path / "o.jsonl").exists()


def test_a_file_is_overwritten_only_when_told(tmp_path: Path, sources: list[str]) -> None:
    file = tmp_path / "train.jsonl"
    prepare(file, sources)
    with pytest.raises(QuestionError, match=r"train\.jsonl exists: .* --force"):
        prepare(file, sources)
    prepare(file, sources, "--force", "--count", "1")
    assert len(load_questions(file)) == 2
    with pytest.raises(QuestionError, match="there is no folder"):
        prepare(tmp_path / "none" / "train.jsonl", sources)
    with pytest.raises(QuestionError, match="is a folder"):
        prepare(tmp_path, sources, "--force")
    assert not list(tmp_path.glob(".*"))


def test_a_part_of_which_nothing_is_left_is_refused() -> None:
    part = Part("a", (Question("1", "a", "Who?", ("x",)),))
    test = Part("t", (Question("2", "t", "who", ("x",)),))
    with pytest.raises(QuestionError, match="a: no question is left"):
        build([part], [5], seed=0, tests=[test], drop={"overlap"})


@given(st.text())
def test_a_text_compares_to_itself_in_any_case_and_spacing(text: str) -> None:
    once = normal_text(text)
    assert normal_text(f"  {text}\n") == once
    assert normal_text(once) == once
    assert bool(once) == bool(text.strip())


def test_texts_without_letters_are_not_all_alike() -> None:
    assert normal_text("???") != normal_text("!!!")
    assert normal_text("Who's the King?") == normal_text("whos the king")
    assert normal_text("The king?") != normal_text("king?")


def test_a_source_is_shown_with_its_hops() -> None:
    done = RUNNER.invoke(app, ["data", "show", "world:heldout", "--limit", "40", "--rows", "1"], catch_exceptions=False)
    assert "heldout-" in done.stdout
    assert "world-2hop" in done.stdout


@needs_data
def test_the_papers_set_out_of_the_real_subsets(tmp_path: Path) -> None:
    sources = [str(DATA / f"{name}.jsonl") for name in ("nq_train", "hotpotqa_train", "nq_test")]
    found, report = prepare(tmp_path / "train.jsonl", sources)
    assert len(found) == report["questions"] == 11_563
    nq, hotpotqa = report["sources"]  # type: ignore[misc]
    assert (nq["rows"], nq["duplicates"], nq["overlap"]) == (7000, 3, {sources[2]: 2})
    assert (hotpotqa["rows"], hotpotqa["in_earlier_sources"], hotpotqa["empty_answers"]) == (4563, 0, 0)
