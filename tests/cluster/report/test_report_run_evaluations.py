"""The evaluations in a run's page, the paper's rows for its data sets, and its pool."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from evaluated import evaluate_world, numbers_of
from made_up_run import make_folder, make_run
from page_reader import Read, check_asks_nothing

from actors.pool.cards import ModelCard
from benchmarks.evaluation.pool_fingerprint import fingerprint
from benchmarks.world.experts import experts
from cluster.report.page import render
from cluster.report.run_page import run_page

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_world(tmp_path_factory.mktemp("world") / "out", limit=20, baselines=("random", "cheapest_right"))


def place(world: Path, folder: Path, target: Path) -> Path:
    """Copy the evaluation, with random routing's row changed into that of a checkpoint's policy."""
    shutil.copytree(world, folder)
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    (folder / "asked.json").write_text(json.dumps(asked | {"target": str(target)}), encoding="utf-8")
    for name in ("evaluation.json", "items.jsonl"):
        file = folder / name
        file.write_text(file.read_text(encoding="utf-8").replace('"random"', '"policy"'), encoding="utf-8")
    return folder


def read_page(run: Path) -> Read:
    return Read(render(run_page(run)))


def test_evaluations_in_the_run_s_folder_and_beside_it_are_sections(world: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path).path
    checkpoint = Path("elsewhere") / run.name / "checkpoints" / "step_000040"
    place(world, run / "evaluations" / "within", checkpoint)
    place(world, tmp_path / "evaluations" / "beside", checkpoint)
    place(world, tmp_path / "evaluations" / "of-another", Path("runs/other/checkpoints/step_000040"))
    unfinished = place(world, run / "evaluations" / "unfinished", checkpoint)
    (unfinished / "evaluation.json").unlink()
    found = read_page(run)
    check_asks_nothing(found)
    assert {"#evaluation-1", "#evaluation-2", "#unfinished", "#frontier"} <= set(found.links)
    assert "Evaluation within" in found.text
    assert "Evaluation beside" in found.text
    assert "of-another" not in found.text
    assert "The policy answers " in found.text
    assert "unfinished: the evaluation is not finished: 40 answers are there" in found.text
    [row] = [row for row in numbers_of(world)["rows"] if row["name"] == "cheapest_right"]
    tables = [each for each in found.tables if each[0][:2] == ["Row", "Exact match%"]]
    ems = [next(cells[1] for cells in each if cells[0] == "cheapest_right") for each in tables]
    assert ems == [f"{100 * row['em']['mean']:.1f}"] * 2
    points = [each for each in found.tables if each[0][:2] == ["method", "knob"]]
    assert {cells[0] for cells in points[0][1:]} == {
        "policy",
        "cheapest_right",
    }  # points of the evaluations, not of the summary


def test_without_evaluations_the_frontier_is_that_of_the_summary(tmp_path: Path) -> None:
    found = read_page(make_run(tmp_path).path)
    [points] = [each for each in found.tables if each[0][:2] == ["method", "knob"]]
    assert [cells[:4] for cells in points[1:]] == [
        ["policy", "α=0", "0.4375", "0.875"], ["most_competent", "", "0.512", "0.950"],
        ["best_constant_hindsight", "", "0.125", "0.650"], ["random", "", "0.3", "0.200"],
    ]  # fmt: skip


def test_the_pool_is_told_by_its_fingerprint(tmp_path: Path) -> None:
    pool = fingerprint([expert.card("http://h/v1") for expert in experts("seen")])
    assert f"The candidates of training are pool {pool}." in read_page(make_run(tmp_path).path).text


@pytest.mark.parametrize("source", ["nq/test", "FILE"])
def test_the_paper_s_rows_are_shown_where_it_has_numbers_for_the_run_s_sets(tmp_path: Path, source: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "1", "dataset": "nq", "question": "who ?", "answers": ["Ada"]}\n', encoding="utf-8")
    named = source.replace("FILE", str(file))
    cards = tmp_path / "cards.yaml"
    card = {"name": "a", "descriptor": "d", "base_url": "http://h/v1", "price_out_usd_per_mtok": 2.0}
    cards.write_text(json.dumps({"models": [card]}), encoding="utf-8")
    mine = ("candidates.serve=none", f"candidates.pool.cards={cards}", "data.train=nq/train")
    folder = make_folder(tmp_path, f"data.eval=[{named}]", *mine)
    found = read_page(folder.path)
    [paper] = [each for each in found.tables if each[0][:3] == ["Row", "Source", "Pool"]]
    assert paper[0][3:] == ["nq%", "Mean%"]
    rows = {row[0]: row[1:] for row in paper[1:]}
    assert rows["Router-R1-Qwen (Qwen2.5-3B-Instruct; published)"] == [
        "published, Table 1",
        "the paper's 6",
        "38.8",
        "38.8",
    ]
    assert rows["Search-R1 (Qwen2.5-3B-Instruct; published)"][1] == "none"
    assert "Published by the paper, not measured here: exact match" in found.text
    assert f"pool {fingerprint([ModelCard(**card)])}" in found.text


def test_the_paper_is_left_out_where_it_has_no_numbers(tmp_path: Path) -> None:
    assert "ublished" not in read_page(make_folder(tmp_path).path).text
