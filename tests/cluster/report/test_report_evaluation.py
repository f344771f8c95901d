"""The page of an evaluation: tables and sentences hold the evaluation's numbers, and nothing in it is executed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from endpoints import Endpoints
from evaluated import EVIL, chat, evaluate_chat, evaluate_world, numbers_of
from page_reader import BROWSER, CHROMIUM, Read, check_asks_nothing, show
from typer.testing import CliRunner

from actors.episodes.remote_model import RemoteModelError
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.statistics import compare
from cluster.cli.app import app
from cluster.evaluation.record import read_evaluation
from cluster.report.evaluation_findings import alarms, compare_rows, result
from cluster.report.evaluation_page import evaluation_page
from cluster.report.page import render
from cluster.runs.files import RunFolderError

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def endpoints() -> Iterator[Endpoints]:
    made = Endpoints()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, endpoints: Endpoints) -> Path:
    return evaluate_chat(chat(endpoints, tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def html(policy: Path) -> str:
    return render(evaluation_page(policy))


@pytest.fixture(scope="module")
def read(html: str) -> Read:
    return Read(html)


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def shown(interval: dict[str, Any]) -> str:
    return f"{percent(interval['mean'])} ({percent(interval['low'])} – {percent(interval['high'])})"


def table(read: Read, *head: str) -> dict[str, list[str]]:
    """The only table whose columns begin so, as rows by first cell."""
    [found] = [each for each in read.tables if tuple(each[0][: len(head)]) == head]
    assert len({row[0] for row in found}) == len(found)
    return {row[0]: row[1:] for row in found[1:]}


@pytest.mark.parametrize("which", ["policy", "world"])
def test_the_table_of_rows_has_the_evaluation_s_numbers(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    numbers = numbers_of(folder)
    right = {"policy": "Right%", "world": "Exact match%"}[which]  # candidates' replies have another measure
    rows = table(Read(render(evaluation_page(folder))), "Row", right, "95 % interval%")
    assert rows.keys() == {row["name"] for row in numbers["rows"]}
    for row in numbers["rows"]:
        cells, em = rows[row["name"]], row["em"]
        assert cells[:3] == [
            percent(em["mean"]),
            f"{percent(em['low'])} – {percent(em['high'])}",
            percent(row["f1"]["mean"]),
        ]
        assert cells[3] == f"{row['usd_per_1k']:,.4g}"
        if which == "policy":
            assert cells[4] == f"{row['policy_usd_per_1k']:,.4g}"
            assert cells[-3] == row["measure"]
        against = numbers["against"].get(row["name"])
        if against is None:
            assert cells[-2:] == ["reference", "–"]
        else:
            gap = against["comparison"]["difference"]
            low, high = (f"{100 * gap[name]:+.1f}".replace("-", "−") for name in ("low", "high"))
            mean = f"{100 * gap['mean']:+.1f}".replace("-", "−")
            assert cells[-2] == f"{mean} ({low} to {high})"
            assert float(cells[-1]) == pytest.approx(against["p_holm"], rel=0.05)
    best = [float(cells[0]) for cells in rows.values()]
    assert best == sorted(best, reverse=True)


def test_published_rows_stand_beside_measured_ones_with_their_pool(policy: Path, read: Read, html: str) -> None:
    numbers = numbers_of(policy)
    em, f1 = [each for each in read.tables if each[0][:3] == ["Row", "Source", "Pool"]]
    assert em[0][3:] == ["Right by", "nq95 % interval", "mine95 % interval", "Mean95 % interval"]
    rows = {row[0]: row[1:] for row in em[1:]}
    for row in numbers["rows"]:
        sets = [shown(row["by_set"][name]["em"]) for name in ("nq", "mine")]
        source = ["measured here", numbers["pool"]["fingerprint"], row["measure"]]
        assert rows[row["name"]] == [*source, *sets, shown(row["em"])]
    papers = {row["label"]: row for row in numbers["published_not_measured"] if row["metric"] == "em"}
    assert papers.keys() == rows.keys() - {row["name"] for row in numbers["rows"]}
    for label, row in papers.items():
        pool = "none" if label.partition(" (")[0] in ("Direct", "CoT", "SFT", "RAG", "Search-R1") else "the paper's 6"
        source = [f"published, {row['table']}", pool, "exact match"]
        assert rows[label] == [*source, percent(row["scores"]["nq"]), "–", "–"]
    assert rows["Router-R1-Qwen (Qwen2.5-3B-Instruct; published)"][3] == "38.8"
    assert html.count('<tr class="quoted">') == len(numbers["published_not_measured"])
    assert len(f1) - 1 == len(numbers["rows"]) + sum(r["metric"] == "f1" for r in numbers["published_not_measured"])
    assert "Rows in italics are published, not measured here" in read.text
    assert "The paper's 6 candidates: Qwen2.5-7B-Instruct, LLaMA-3.1-8B-Instruct, " in read.text


def test_candidates_calls_and_spending_are_the_evaluation_s(policy: Path, read: Read) -> None:
    numbers = numbers_of(policy)
    cards = table(read, "Candidate", "Model")
    assert cards["alpha"][:3] == ["alpha", "2", "2"]
    assert f"Fingerprint {numbers['pool']['fingerprint']}, of names" in read.text
    calls = table(read, "Row", "Entropynats")
    for row in numbers["rows"]:
        shares = [percent(share) if (share := row["call_share"].get(name)) else "" for name in ("alpha", "beta")]
        assert calls[row["name"]] == [f"{row['entropy']:.3f}", calls[row["name"]][1], *shares]
    spent = table(read, "Candidate", "Calls")
    assert float(spent["All"][1]) == pytest.approx(numbers["spent_usd"], abs=1e-4) != 0
    assert spent.keys() == {"alpha", "beta", "All"}
    paid = table(read, "Row", "Answers")
    own = sum(json.loads(line)["policy_usd"] for line in (policy / "items.jsonl").read_text().splitlines())
    assert paid["policy"][0] == "16"
    assert float(paid["policy"][2]) == pytest.approx(own, abs=1e-4) != 0


def test_the_result_is_said_in_sentences_with_numbers(policy: Path, read: Read) -> None:
    numbers = numbers_of(policy)
    rows = {row["name"]: row for row in numbers["rows"]}
    ours, best = rows["policy"], rows["alone:alpha"]
    assert (
        f"The policy answers {percent(ours['em']['mean'])} % of 16 questions (mean over 2 data sets) exactly"
        in read.text
    )
    gap, p = numbers["against"]["alone:alpha"]["comparison"]["difference"], numbers["against"]["alone:alpha"]["p_holm"]
    assert best["em"]["mean"] == 1.0
    said = (
        f"The policy is {percent(gap['mean'])} points worse than the best constant in training (alpha), which answers "
        f"100.0 %; the difference lies in −{percent(gap['high'])} to −{percent(gap['low'])} points at 95 %. The "
        f"difference {'is real' if p < 0.05 else 'may be chance'} (p = {p:.2g}, paired by question, "
        "adjusted for all comparisons)."
    )
    assert said in read.text
    assert "The policy is no better than always asking alpha" in read.text
    assert all(f"Note: {note}" in read.text for note in numbers["notes"])


def test_other_pools_stand_side_by_side(policy: Path, tmp_path: Path) -> None:
    folder, numbers = shutil.copytree(policy, tmp_path / "pools"), numbers_of(policy)
    [row] = [row for row in numbers["rows"] if row["name"] == "policy"]
    known = {"pool": "as trained", "row": "policy", "summary": row, "cheapest_right_em": 0.875,
             "cheapest_right_usd_per_1k": 1.5, "best_constant_training": "alpha", "best_constant_training_em": 0.75,
             "best_constant_training_usd_per_1k": 2.5,
             "of_cheapest_right": {"mean": 0.5, "low": 0.25, "high": 0.75, "questions": 16},
             "against_best_constant_training": numbers["against"]["alone:alpha"], "against_trained": None}  # fmt: skip
    bare = known | dict.fromkeys(
        ("cheapest_right_em", "cheapest_right_usd_per_1k", "of_cheapest_right", "best_constant_training",
         "best_constant_training_em", "best_constant_training_usd_per_1k", "against_best_constant_training")
    )  # fmt: skip
    cards = numbers["pool"]["cards"]
    numbers["pools"] = {
        "pools": [
            {"label": "as trained", "fingerprint": "f1", "cards": cards},
            {"label": "without beta", "fingerprint": "f2", "cards": {"alpha": cards["alpha"]}},
        ],
        "rows": [known, bare | {"pool": "without beta"}],
        "notes": [],
    }
    (folder / "evaluation.json").write_text(json.dumps(numbers), encoding="utf-8")
    found = Read(render(evaluation_page(folder)))
    rows = table(found, "Pool", "Row")
    assert rows["as trained"][:2] == ["policy", "16"]
    assert rows["as trained"][9:15] == ["87.5", "1.5", "50.0 (25.0 – 75.0)", "alpha", "75.0", "2.5"]
    gap = numbers["against"]["alone:alpha"]["comparison"]["difference"]
    assert rows["as trained"][15].startswith(f"{100 * gap['mean']:+.1f} (")
    assert rows["without beta"][9:] == ["–"] * 10
    assert table(found, "Candidate", "as trainedf1")["beta"] == ["1 / 1", "–"]
    del numbers["pools"]["rows"][0]["cheapest_right_em"]
    (folder / "evaluation.json").write_text(json.dumps(numbers), encoding="utf-8")
    with pytest.raises(
        RunFolderError, match=r"damaged \(KeyError\('cheapest_right_em'\)\); remove it and evaluate again"
    ):
        evaluation_page(folder)


def test_a_policy_alone_is_not_said_to_be_better_than_anything(policy: Path, tmp_path: Path) -> None:
    folder, numbers = shutil.copytree(policy, tmp_path / "alone"), numbers_of(policy)
    numbers |= {"rows": [row for row in numbers["rows"] if row["name"] == "policy"], "against": {}}
    (folder / "evaluation.json").write_text(json.dumps(numbers), encoding="utf-8")
    said = result(read_evaluation(folder))
    assert len(said) == 2
    assert said[1].startswith("There is no baseline to compare with")
    assert "All rows, the best first" in Read(render(evaluation_page(folder))).text


def test_baselines_alone_are_compared_among_themselves(world: Path) -> None:
    record = read_evaluation(world)
    said = " ".join(result(record))
    assert said.startswith("No policy is in this evaluation")
    best = next(row for row in record.ranked if row.name.startswith("knn"))
    assert f"{best.name} answers {percent(best.em.mean)} % of 40 questions" in said
    p = numbers_of(world)["against"][best.name]["p_holm"]
    assert f"The difference {'is real' if p < 0.05 else 'may be chance'} (p = {p:.2g}, paired by question, adj" in said
    assert "The best router was picked on the same questions" in said
    assert alarms(record) == []


def test_a_candidate_that_is_the_best_in_hindsight_is_told(world: Path, tmp_path: Path) -> None:
    folder, numbers = shutil.copytree(world, tmp_path / "hindsight"), numbers_of(world)
    [row] = [row for row in numbers["rows"] if row["name"] == "alone:seen-chef"]
    row["em"]["mean"] = 0.9
    (folder / "evaluation.json").write_text(json.dumps(numbers), encoding="utf-8")
    assert any(
        "on these seen-chef is better, with 90.0 % at $" in sentence for sentence in result(read_evaluation(folder))
    )
    assert not any("on these " in sentence for sentence in result(read_evaluation(world)))


def test_rows_are_compared_as_the_evaluation_did_or_anew_from_their_items(world: Path) -> None:
    record, numbers = read_evaluation(world), numbers_of(world)
    found = compare_rows(record, "best_constant_training", "knn")
    there = numbers["against"]["knn"]["comparison"]["difference"]
    assert found is not None
    assert (found[0].difference.mean, found[0].difference.high, found[1]) == (-there["mean"], -there["low"], True)
    items = [item for item in record.read_items() if item.dataset == "world-1hop"]
    folder = shutil.copytree(world, world.parent / "one-set")
    (folder / "items.jsonl").write_text("".join(item.to_line() + "\n" for item in items), encoding="utf-8")
    again = compare_rows(read_evaluation(folder), "knn", "random")
    assert again is not None
    assert again == (compare(*(scores(items, row) for row in ("knn", "random"))), False)


def scores(items: list[Item], row: str) -> list[float]:
    return [item.em for item in sorted(items, key=lambda item: item.key) if item.row == row]


def test_questions_are_good_bad_and_dear_with_whole_trajectories(policy: Path, read: Read) -> None:
    kinds = re.findall(r"(Good|Bad|Expensive)(?:: [^·\n]*) · (?:nq|mine)", read.text)
    assert kinds == ["Good", "Good", "Bad", "Bad", "Expensive", "Expensive"]
    asked = re.findall(r"id: ((?:nq|mine)-\d+)", read.text)
    assert len(set(asked)) == 6
    assert read.text.count("Turn 1") == 6
    turns = re.findall(r"<think> who </think> <search> \w+ : what colour is thing \d+ \? </pre><script>", read.text)
    assert len(turns) == 6
    assert re.search(r"Call to alpha, asked for as '\w+'.*?it is (red|blue|green|black)", read.text, re.DOTALL)
    assert re.search(r"cheapest_right: right(, F1 0\.\d\d)?; asked alpha; ", read.text)
    told = [json.loads(line) for line in (policy / "episodes.jsonl").read_text().splitlines()]
    assert {tuple(row["key"]) for row in told} == {
        item.key for item in read_evaluation(policy).read_items() if item.row == "policy"
    }


def test_questions_without_texts_or_trajectories_are_named_by_their_ids(policy: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(policy, tmp_path / "old")
    (folder / "questions.jsonl").unlink()
    (folder / "episodes.jsonl").unlink()
    found = Read(render(evaluation_page(folder)))
    assert re.search(r"(nq|mine)-\d+\s+id: ", found.text)
    assert "alpha: ok" in found.text
    assert "Turn 1" not in found.text


def test_what_was_asked_is_shown_as_text_and_asks_nothing(html: str, read: Read) -> None:
    check_asks_nothing(read)
    assert EVIL in read.text
    assert "<script" not in html
    assert "accepted answers: " in read.text
    assert "R & D" in read.text


def test_pictures_are_told_in_words_and_anchors_lead_somewhere(html: str, read: Read) -> None:
    told = [picture["alt"] or "" for picture in read.pictures]
    assert told[0] == "6 points of 6 methods"
    assert told[1].startswith("Calls by candidate, the most asked of each row: policy: ")
    anchors = [link for link in read.links if link.startswith("#")]
    assert len(anchors) == 8
    assert all(f'id="{anchor[1:]}"' in html for anchor in anchors)


def test_names_with_dollar_signs_are_no_formulas(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world, tmp_path / "named")
    for name in ("evaluation.json", "items.jsonl"):
        file = folder / name
        file.write_text(file.read_text().replace('"random"', '"$x_{$<b>"').replace("seen-chef", "$y^{$"))
    found = Read(render(evaluation_page(folder)))
    assert "$x_{$<b>" in found.text
    assert "b" not in found.tags


def test_an_evaluation_that_is_not_finished_is_refused_with_the_remedy(tmp_path: Path) -> None:
    made = Endpoints()
    made.patience = 9
    try:
        with pytest.raises(RemoteModelError):
            evaluate_chat(chat(made, tmp_path))
    finally:
        made.stop()
    error = report(tmp_path / "out").exception
    assert isinstance(error, RunFolderError)
    assert re.search(r"not finished: \d answers are there.*Finish it by the command that began it", str(error))
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("evaluation.json", "{", r"evaluation\.json: damaged .*evaluate again by the same command"),
        ("evaluation.json", '{"about": {}}', r"evaluation\.json: damaged \(KeyError\('pool'\)\)"),
        ("items.jsonl", "{}\n", r"items\.jsonl, line 1: no item of an evaluation"),
        ("questions.jsonl", '{"id": 1}\n', r"questions\.jsonl, line 1: damaged"),
        ("asked.json", "", r"damaged"),
    ],
)
def test_damaged_files_are_named(world: Path, tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = shutil.copytree(world, tmp_path / "damaged")
    (folder / file).write_text(text, encoding="utf-8")
    error = report(folder).exception
    assert isinstance(error, RunFolderError)
    assert re.search(message, str(error))


def test_the_command_writes_the_page_and_leaves_the_evaluation_alone(world: Path) -> None:
    before = {path.name: path.read_bytes() for path in world.iterdir()}
    done = report(world)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{world / 'report.html'}: ")
    assert (world / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {name: content for name, content in before.items() if (world / name).read_bytes() != content} == {}


@pytest.mark.skipif(CHROMIUM is None, reason=BROWSER)
def test_a_browser_shows_it_and_asks_for_nothing(policy: Path, html: str, tmp_path: Path) -> None:
    answer = show(html, tmp_path, "tr.main td.number")
    [row] = [row for row in numbers_of(policy)["rows"] if row["name"] == "policy"]
    assert answer["drawn"] == answer["there"] == html.count("<img ") == 2
    assert answer["loaded"] == []
    assert answer["cell"] == percent(row["em"]["mean"])
    assert answer["side"] == "right"
    assert answer["wide"] <= 0
    assert not answer["requests"]


@pytest.mark.parametrize("which", ["policy", "world"])
def test_the_verdict_stands_in_the_table_and_on_the_page(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    said = numbers_of(folder)["verdicts"]
    assert [each.partition(" at λ=")[0].partition(":")[0] for each in said] == ["policy", "knn"][which == "world" :]
    table = (folder / "table.md").read_text(encoding="utf-8").partition("\n## Verdict\n")[2].partition("\n## ")[0]
    page = Read(render(evaluation_page(folder))).text
    for each in said:
        assert f"\n- {each}" in table
        assert each in page


def test_an_evaluation_from_before_there_were_verdicts_is_read(world: Path, tmp_path: Path) -> None:
    old = shutil.copytree(world, tmp_path / "old")
    numbers = {name: value for name, value in numbers_of(old).items() if name != "verdicts"}
    (old / "evaluation.json").write_text(json.dumps(numbers), encoding="utf-8")
    assert "Verdict" not in [section.title for section in evaluation_page(old).sections]
