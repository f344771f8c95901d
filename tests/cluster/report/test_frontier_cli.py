"""`router-r1 frontier`: points from evaluations and runs, and the three files made from them."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from page_reader import Read
from typer.testing import CliRunner

from benchmarks.baselines import contests
from benchmarks.evaluation.published import published_rows
from cluster.cli.app import app
from cluster.config.loading import load_config
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.frontier_points import read_points
from cluster.evaluation.options import EvaluationOptions
from cluster.runs.files import RunFolderError

pytestmark = pytest.mark.thorough

BOUNDS = {"mean": 0.7, "low": 0.6, "high": 0.8, "questions": 40}
NAMES = ("random", "best_constant_training", "best_utility", "cheapest_right")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contests, "_WORLD_TRAIN", 100)
        asked = EvaluationOptions("world", limit=40, baselines=NAMES, lambdas=(0.0, 1.0), out=out, resamples=199)
        return evaluate(asked, lambda _: None, lambda *_: None)


def made_run(folder: Path, alpha: float, *settings: str) -> Path:
    """A run with a summary."""
    folder.mkdir()
    config = load_config("quickstart", [f"rewards.alpha={alpha}", *settings]).dump()
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    after = {"questions": 100, "em": 0.8, "f1": None, "cost_usd_per_1k_questions": 1.5, "calls_per_question": 1.0,
             "call_share": {}}  # fmt: skip
    summary = {
        "after": after,
        "most_competent": after | {"em": 0.9},
        "best_constant_hindsight": after | {"em": 0.5},
        "before": after | {"em": 0.1},
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("", encoding="utf-8")
    return folder


def test_baselines_over_lambda_and_runs_over_alpha(world: Path, tmp_path: Path) -> None:
    runs = [made_run(tmp_path / f"run-{alpha}", alpha) for alpha in (0.0, 0.6)]
    done = CliRunner().invoke(app, ["frontier", str(world), *map(str, runs), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "out" / "frontier.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    knobs = {(row["method"], row["knob"]) for row in rows}
    assert {("best_utility", "λ=0"), ("best_utility", "λ=1"), ("policy", "α=0"), ("policy", "α=0.6")} <= knobs
    bounds = ("cheapest_right", "most_competent", "best_constant_training", "best_constant_hindsight")
    assert {(name, "") for name in bounds} <= knobs
    assert {row["measure"] for row in rows} == {"exact match"}
    assert "Note: gap by exact match: from best_constant_training to cheapest_right" in done.output
    [own] = json.loads((world / "evaluation.json").read_text())["notes"]
    assert f"Note: {world}: {own}" in done.output
    [policy] = [row for row in rows if row["knob"] == "α=0.6"]
    assert (float(policy["em"]), float(policy["usd_per_1k"])) == (0.8, 1.5)
    assert 0.7 < float(policy["em_low"]) < 0.8 < float(policy["em_high"]) < 0.88
    assert (tmp_path / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "frontier.html").read_text(encoding="utf-8")
    assert "best_utility" in page
    assert "Gap by exact match: from best_constant_training to cheapest_right." in page
    assert f"{world}: {own}" in Read(page).text
    assert "data:image/svg+xml;base64," in page
    assert "runs record neither pool nor sets" in done.output


def test_published_rows_and_pools_stand_in_table_and_page_marked_as_such(world: Path, tmp_path: Path) -> None:
    evaluated = tmp_path / "nq"
    shutil.copytree(world, evaluated)
    numbers = json.loads((evaluated / "evaluation.json").read_text())
    paper = [
        {"label": row.label, "metric": row.metric, "table": row.table, "scores": row.scores, "average": row.average}
        for row in published_rows("em", ["nq"], "qwen")
    ]
    for row in numbers["rows"]:
        row["by_set"] = {{"world-1hop": "nq"}.get(name, name): part for name, part in row["by_set"].items()}
    (evaluated / "evaluation.json").write_text(json.dumps(numbers | {"published_not_measured": paper}))
    done = CliRunner().invoke(app, ["frontier", str(evaluated), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "out" / "frontier.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    measured, quoted = rows[: -len(paper)], rows[-len(paper) :]
    assert {row["pool"] for row in measured} == {numbers["pool"]["fingerprint"]}
    assert not [row for row in measured if "published, not measured" in row["source"]]
    assert {row["source"] for row in quoted} == {
        f"published, not measured here: {table}, mean over nq" for table in ("Table 1", "Table 5")
    }
    [router] = [row for row in quoted if row["method"].startswith("Router-R1-Qwen")]
    assert (router["em"], router["usd_per_1k"]) == ("0.388", "")
    assert "LLaMA-3.1-70B-Instruct; " in router["pool"]
    page = (tmp_path / "out" / "frontier.html").read_text(encoding="utf-8")
    assert page.count('<tr class="quoted">') == len(paper)
    assert "Published by the paper, not measured here, and not drawn" in page
    assert page.count(numbers["pool"]["fingerprint"]) == len(measured)


def test_models_at_endpoints_are_methods_of_their_own_and_their_tokens_are_paid(world: Path, tmp_path: Path) -> None:
    asked = json.loads((world / "asked.json").read_text())
    numbers = json.loads((world / "evaluation.json").read_text())
    [row] = [row for row in numbers["rows"] if row["name"] == "random"]
    folders = []
    for name, usd in (("small", 1.0), ("large", 50.0)):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "asked.json").write_text(json.dumps(asked | {"target": f"{name} at http://h/v1"}))
        rows = [row | {"name": n, "usd_per_1k": 1.0, "policy_usd_per_1k": usd} for n in ("policy", "cot, sampled")]
        (folders[-1] / "evaluation.json").write_text(json.dumps(numbers | {"rows": rows}))
    points, _ = read_points(folders)
    assert [(point.method, point.usd_per_1k) for point in points] == [
        ("policy (small at http://h/v1)", 2.0), ("cot, sampled (small at http://h/v1)", 2.0),
        ("policy (large at http://h/v1)", 51.0), ("cot, sampled (large at http://h/v1)", 51.0),
    ]  # fmt: skip


def test_policies_under_budgets_stand_beside_the_sweep_of_alpha(world: Path, tmp_path: Path) -> None:
    numbers = json.loads((world / "evaluation.json").read_text())
    (tmp_path / "budgets").mkdir()
    (tmp_path / "budgets" / "asked.json").write_text((world / "asked.json").read_text())
    rows = [
        numbers["rows"][0] | {"name": f"policy, budget={usd}", "usd_per_1k": usd, "em": {**BOUNDS, "high": high}}
        for usd, high in ((0.75, 0.8), (1.5, 0.85), (3.0, 0.75))
    ]
    (tmp_path / "budgets" / "evaluation.json").write_text(json.dumps(numbers | {"rows": rows}))
    runs = [made_run(tmp_path / f"run-{alpha}", alpha) for alpha in (0.0, 0.6)]
    budgeted = made_run(tmp_path / "run-budgets", 0.0, "episode.budgets_usd=[0.001]")
    folders = [str(tmp_path / "budgets"), *map(str, runs), str(budgeted)]
    done = CliRunner().invoke(app, ["frontier", *folders, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = Read((tmp_path / "out" / "frontier.html").read_text(encoding="utf-8")).text
    for line in (
        "policy, budget=0.75 USD: 0.700 (0.600 - 0.800) for 0.75 USD per 1k, cheaper than every run of the sweep of",
        "policy, budget=1.5 USD: 0.700 (0.600 - 0.850) for 1.5 USD per 1k, not clearly below the 0.800 that the sweep "
        "of α reaches",
        "policy, budget=3.0 USD: 0.700 (0.600 - 0.750) for 3 USD per 1k, BELOW the 0.800 that the sweep of α",
    ):
        assert f"- {line}" in done.output
        assert line in page
    with (tmp_path / "out" / "frontier.csv").open(encoding="utf-8") as file:
        knobs = {row["knob"] for row in csv.DictReader(file) if row["method"] == "policy"}
    assert knobs == {"α=0", "α=0.6", "budgets drawn"}


def test_evaluations_of_other_questions_are_told(world: Path, tmp_path: Path) -> None:
    points, notes = read_points([world, world])
    assert notes == []
    assert len(points) == 5
    asked = json.loads((world / "asked.json").read_text()) | {"questions": "9, other"}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    numbers = json.loads((world / "evaluation.json").read_text())
    numbers["rows"] = numbers["rows"][:1]
    numbers["rows"][0]["em"] |= {"low": None, "high": None}
    (tmp_path / "evaluation.json").write_text(json.dumps(numbers))
    points, [note] = read_points([world, tmp_path])
    assert "not measured with the same candidates and questions" in note
    assert math.isnan(read_points([tmp_path])[0][0].em.low)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"evaluation.json: damaged"):
        read_points([tmp_path])


def test_rows_of_other_measures_are_drawn_apart_and_told(world: Path, tmp_path: Path) -> None:
    numbers = json.loads((world / "evaluation.json").read_text())
    judged = [row | {"measure": "judged"} for row in numbers["rows"]]
    (tmp_path / "asked.json").write_text((world / "asked.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps(numbers | {"rows": numbers["rows"][:1] + judged}))
    done = CliRunner().invoke(app, ["frontier", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "measures differ (exact match, judged)" in done.output
    lines = [line.split("|")[1:3] for line in done.output.splitlines() if line.startswith("| random")]
    assert [[cell.strip() for cell in line] for line in lines] == [["random", "exact match"], ["random", "judged"]]
    page = (tmp_path / "out" / "frontier.html").read_text(encoding="utf-8")
    assert "The largest area by exact match is that of random" in page
    assert "The largest area by judged is that of cheapest_right" in page


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no config\.yaml, so it is no run"):
        read_points([tmp_path])


def test_an_evaluation_that_is_not_finished_is_refused_with_the_remedy(world: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(world, unfinished)
    (unfinished / "evaluation.json").unlink()
    error = CliRunner().invoke(app, ["frontier", str(unfinished), "--out", str(tmp_path / "out")]).exception
    assert isinstance(error, RunFolderError)
    assert "not finished: 200 answers are there, and no table. Finish it by the command that began it" in str(error)
