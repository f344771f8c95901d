"""Old names: runs and evaluations from before each method had one name are reported, drawn and continued."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from evaluated import evaluate_world
from made_up_run import COMPETENT, SINGLE, make_run, summary
from old_form import age_evaluation, age_summary
from page_reader import Read

from benchmarks.baselines.router import RouterError
from benchmarks.evaluation.old_names import evaluation_of_today, row_of_today, summary_of_today
from cluster.evaluation.frontier_points import read_points
from cluster.evaluation.record import read_evaluation
from cluster.report.evaluation_page import evaluation_page
from cluster.report.page import render
from cluster.report.run_page import run_page
from cluster.runs.record import read_record

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_world(tmp_path_factory.mktemp("today"))


@pytest.fixture
def old(today: Path, tmp_path: Path) -> Path:
    folder = age_evaluation(shutil.copytree(today, tmp_path / "old"))
    text = (folder / "items.jsonl").read_text(encoding="utf-8") + (folder / "evaluation.json").read_text("utf-8")
    assert '"oracle"' in text
    assert '"best_constant"' in text
    assert '"cheapest_right"' not in text
    return folder


def page_text(text: str) -> str:
    """The page without the time of its writing and the bytes of its pictures."""
    return re.sub(r"Written [-\d: ]+ UTC|data:image/svg\+xml;base64,[^\"]+", "", text)


def test_an_old_evaluation_is_read_as_one_of_today_and_says_what_its_sentences_mean(today: Path, old: Path) -> None:
    now, then = read_evaluation(today), read_evaluation(old)
    assert asdict(then)["rows"] == asdict(now)["rows"]
    assert then.against == now.against
    assert [item.key for item in then.read_items()] == [item.key for item in now.read_items()]
    note = then.notes[-1]
    assert [*now.notes, note] == list(then.notes)
    assert "in its sentences, oracle means cheapest right candidate" in note
    assert "best single and best_constant mean best constant in training" in note
    found = page_text(render(evaluation_page(old)))
    assert "oracle" not in found.replace(note, "")
    assert note in Read(found).text


def test_the_frontier_of_an_old_evaluation_is_that_of_today(today: Path, old: Path) -> None:
    (now, _), (then, _) = read_points([today]), read_points([old])
    assert [(p.method, p.knob, p.em) for p in then] == [(p.method, p.knob, p.em) for p in now]
    assert {"cheapest_right", "best_constant_training"} <= {point.method for point in then}


def test_an_old_evaluation_goes_on_to_the_table_of_today_and_makes_no_item_twice(today: Path, old: Path) -> None:
    lines = (old / "items.jsonl").read_bytes().splitlines(keepends=True)
    (old / "items.jsonl").write_bytes(b"".join(lines[:-5]))  # the state after a kill before its last answers
    names = ("alone", "random", "best_constant", "best_utility", "knn", "oracle")
    evaluate_world(old, baselines=names)
    again = (old / "items.jsonl").read_bytes().splitlines(keepends=True)
    assert again[:-5] == lines[:-5]
    assert len(again) == len(lines)
    assert [json.loads(line)["row"] for line in again[-5:]] == ["cheapest_right"] * 5
    for name in ("table.md", "evaluation.json"):
        assert (old / name).read_text(encoding="utf-8") == (today / name).read_text(encoding="utf-8")
    evaluate_world(old, against="best_constant")
    assert {row.reference for row in read_evaluation(old).against.values()} == {"best_constant_training"}


def test_an_old_run_is_reported_and_drawn_as_one_of_today(tmp_path: Path) -> None:
    now, then = make_run(tmp_path / "now").path, make_run(tmp_path / "then").path
    aged = age_summary(summary() | {"most_competent_unseen": asdict(COMPETENT)})
    assert {"oracle", "best_single", "oracle_unseen"} <= aged.keys()
    (then / "summary.json").write_text(json.dumps(aged), encoding="utf-8")
    found = read_record(then)
    assert found.evaluations["most_competent"] == found.evaluations["most_competent_unseen"] == COMPETENT
    assert found.evaluations["best_constant_hindsight"] == SINGLE
    (then / "summary.json").write_text(json.dumps(age_summary(summary())), encoding="utf-8")
    pages = [page_text(render(run_page(path))).replace(str(path.parent), "") for path in (now, then)]
    assert pages[0] == pages[1]
    (of_now, _), (of_then, _) = read_points([now]), read_points([then])
    assert [(p.method, p.em, p.usd_per_1k) for p in of_then] == [(p.method, p.em, p.usd_per_1k) for p in of_now]


def test_names_of_today_stay_as_they_are_and_only_whole_names_are_old() -> None:
    for name in ("cheapest_right", "alone:oracle", "oracle_x", "policy, budget=1", "knn, λ=0.1", "cheapest"):
        assert row_of_today(name) == name
    assert row_of_today("oracle @ without:oracle") == "cheapest_right @ without:oracle"
    assert summary_of_today({"best_constant_hindsight": 1, "steps": 2}) == {"best_constant_hindsight": 1, "steps": 2}
    numbers: dict[str, Any] = {"rows": [{"name": "knn"}], "against": {}, "notes": ["a"], "pools": None}
    assert evaluation_of_today(numbers) == numbers


def test_a_name_that_never_was_a_baselines_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"baseline 'best_single': not found; there are .*best_constant_training"):
        evaluate_world(tmp_path, baselines=("best_single",))
