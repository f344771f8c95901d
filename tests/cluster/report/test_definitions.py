"""Definitions: wherever a summary, table, page or bench names a method, the method is defined."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from evaluated import evaluate_world, numbers_of
from made_up_run import make_run, summary
from page_reader import Read
from rich.console import Console
from typer.testing import CliRunner

from actors.questions import Question
from benchmarks.baselines.__main__ import main
from benchmarks.benches.figures import report
from benchmarks.evaluation.collapse import Constant, collapse_alarm
from benchmarks.evaluation.means import Evaluation
from benchmarks.evaluation.methods import METHODS, methods_of
from benchmarks.evaluation.pool_table import PoolTable
from benchmarks.evaluation.table import render_pools
from benchmarks.world.facts import World
from cluster.benches.world import PLAN, figures
from cluster.cli.app import app
from cluster.config.loading import load_config
from cluster.report.evaluation_page import evaluation_page
from cluster.report.page import render
from cluster.report.run_page import run_page
from cluster.runs.clock import Clock
from cluster.tracking.terminal import Terminal
from cluster.training.summary import summarise_run

pytestmark = pytest.mark.thorough


def undefined(text: str, rows: Iterable[str] = ()) -> list[str]:
    """The methods that a text or its rows name without their definition.

    Names that are a common word, such as `cheapest`, are searched only in the rows.
    """
    plain = " ".join(text.lower().split())
    named = [
        method
        for method in METHODS.values()
        if (" " in method.name and method.name.lower() in plain) or ("_" in method.key and method.key in plain)
    ]
    assert named
    return [method.key for method in dict.fromkeys((*named, *methods_of(rows))) if method.meaning.lower() not in plain]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_world(tmp_path_factory.mktemp("world"))


def test_the_search_finds_what_is_not_defined() -> None:
    assert undefined("the most competent candidate is right", ["cheapest"]) == ["most_competent", "cheapest"]
    assert undefined(METHODS["most_competent"].line) == []


def test_the_terminal_s_summary() -> None:
    out = io.StringIO()
    told = summary()
    Terminal(2, Console(file=out, width=200)).finish(told, Path("runs/one"), "quickstart")
    assert undefined(out.getvalue(), told) == []


def test_a_run_s_summary_defines_its_results() -> None:
    asked = [question for question, _ in zip(World().questions("heldout", 1, 0.4), range(3), strict=False)]
    questions: list[Question] = [question for question, _ in asked]
    found = summarise_run(
        load_config("quickstart", []), {"before_step": 0}, questions, clock=Clock(), usd_total=0.0, probe_max=0.0
    )
    results = {name for name, value in found.items() if isinstance(value, dict) and "em" in value}
    assert {"most_competent", "best_constant_hindsight", "random", "most_competent_unseen"} <= results
    assert found["methods"] == {m.key: m.meaning for m in methods_of([*("before", "after"), *sorted(results)])}


def test_the_page_of_a_run_with_an_evaluation_and_without(world: Path, tmp_path: Path) -> None:
    for name, evaluated in (("alone", False), ("beside", True)):
        run = make_run(tmp_path / name).path
        rows = [*summary(), "policy"]
        if evaluated:
            (run / "evaluations").mkdir()
            (run / "evaluations" / "one").symlink_to(world)
            rows += [row["name"] for row in numbers_of(world)["rows"]]
        assert undefined(Read(render(run_page(run))).text, rows) == []


def test_the_page_the_table_and_the_numbers_of_an_evaluation(world: Path, tmp_path: Path) -> None:
    numbers = numbers_of(world)
    rows = [row["name"] for row in numbers["rows"]]
    assert undefined(Read(render(evaluation_page(world))).text, rows) == []
    assert undefined((world / "table.md").read_text(encoding="utf-8"), rows) == []
    assert numbers["methods"] == {method.key: method.meaning for method in methods_of(rows)}
    without = evaluate_world(
        tmp_path, limit=10, baselines=("alone", "knn")
    )  # its page names the best constant in hindsight
    text = Read(render(evaluation_page(without))).text
    assert "best constant in hindsight" in text
    assert undefined(text, ["alone", "knn"]) == []


def test_the_table_of_pools() -> None:
    assert undefined(render_pools(PoolTable([], []))) == []


def test_the_frontier_s_table_and_page(world: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path).path
    done = CliRunner().invoke(app, ["frontier", str(world), str(run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    rows = [*(row["name"] for row in numbers_of(world)["rows"]), "policy", "most_competent", "best_constant_hindsight"]
    assert undefined(done.output, rows) == []
    assert undefined(Read((tmp_path / "out" / "frontier.html").read_text(encoding="utf-8")).text, rows) == []


def test_the_comparison_of_baselines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("random", "best_constant_training", "cheapest_right", "knn")
    monkeypatch.setattr("benchmarks.baselines.__main__.world_training", lambda: _questions("train", 100))
    monkeypatch.setattr("benchmarks.baselines.__main__._WORLD_TEST", 10)
    monkeypatch.setattr("sys.argv", ["baselines", "world", "--lambdas", "0", "--names", *names])
    main()
    assert undefined(capsys.readouterr().out, names) == []


def _questions(split: str, count: int) -> list[Question]:
    drawn = World().questions(split, 1, 0.4)  # type: ignore[arg-type]
    return [question for (question, _), _ in zip(drawn, range(count), strict=False)]


def test_the_alarm_of_the_collapse_watch() -> None:
    policy = Evaluation(100, 0.5, 0.5, 1.0, 1.0, {"a": 0.5, "b": 0.5})
    for method in ("best_constant_training", "best_constant_hindsight", "best_constant_cards"):
        said = collapse_alarm(policy, Constant("a", 0.6, 100, 1.0, method))
        assert said is not None
        assert undefined(said, [method]) == []


def test_the_bench_of_the_world_as_a_table_and_as_json() -> None:
    one = {"em": 0.9, "cost_usd_per_1k_questions": 0.5, "call_share": {"a": 1.0}}
    bounds = dict.fromkeys(("most_competent", "best_constant_hindsight", "random", "after_unseen", "before"), one)
    told = bounds | {"after": one, "most_competent_unseen": one, "wall_s": 1.0, "peak_bytes": 1, "probe_max_diff": 0.0,
                     "first_step_ratio_deviation": 0.0}  # fmt: skip
    found = figures(dict.fromkeys(PLAN, told))
    for as_json in (True, False):
        out = io.StringIO()
        report(found, out, as_json=as_json)
        text = (
            " ".join(each["note"] for each in json.loads(out.getvalue()) if "note" in each)
            if as_json
            else out.getvalue()
        )
        assert undefined(text, ["most_competent", "best_constant_hindsight"]) == []
