"""The report page: one file that loads nothing from a network, with the tables, plots and warnings of its run."""

from __future__ import annotations

import base64
import fcntl
import gc
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import Result
from made_up_run import AFTER, SINGLE, STEPS, make_folder, make_run, stop_short, summary, told, training_row
from page_reader import BROWSER, CHROMIUM, Read, check_asks_nothing, show
from typer.testing import CliRunner

from benchmarks.evaluation.tables import Column, Table
from cluster.cli.app import app
from cluster.episodes.candidates import run_cards
from cluster.report.episode_section import Told, telling_episodes
from cluster.report.page import render
from cluster.report.run_findings import alarms, best_constant, result, status
from cluster.report.run_page import run_page
from cluster.report.run_tables import candidates_table
from cluster.runs.files import RunFolderError
from cluster.runs.record import read_record

EVIL = """</pre><script>alert(1)</script><img src="https://evil.example/a.png" onerror=alert(1)> & "quoted" ```
<style>@import url(https://evil.example/b.css)</style>"""


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def alarms_of(path: Path) -> list[str]:
    record = read_record(path)
    cards = run_cards(record)
    return alarms(record, cards, best_constant(record, cards))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs"))
    folder.write_trajectories(STEPS, "eval", [told(102, right=True, reply=EVIL)])
    log = "2026-11-25 15:13:05,916 INFO a: x\n2026-11-25 15:13:06,916 WARNING cluster.training.run: <b>slow</b> at http://me:pw@h\n"
    folder.log_file.write_text(log, encoding="utf-8")
    return folder.path


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    return render(run_page(finished))


@pytest.fixture(scope="module")
def read(html: str) -> Read:
    return Read(html)


def test_nothing_is_asked_of_any_network(read: Read) -> None:
    check_asks_nothing(read)


def test_the_anchors_lead_somewhere(html: str, read: Read) -> None:
    anchors = [link for link in read.links if link.startswith("#")]
    assert len(anchors) == 10
    assert all(f'id="{anchor[1:]}"' in html for anchor in anchors)


def test_pictures_are_whole_and_told_in_words(read: Read) -> None:
    told_of = [picture["alt"] or "" for picture in read.pictures]
    for words in ("Reward: training batch 0.025 at step 1, 1 at step 40", "Exact match: ", "Price of 1,000 questions: ",
                  "Entropy of the policy: ", "KL: ", "Idle: ", "Staleness: ", "Tokens per second: ",
                  "Mean seconds of a step's phases: rollout 2.00 s, learn 1.00 s",
                  "Calls by candidate, training, first step to last: "):  # fmt: skip
        assert any(alt.startswith(words) for alt in told_of), words
    assert "seen-polymath 98% to 0%" in " ".join(told_of)
    for picture in read.pictures:
        svg = base64.b64decode((picture["src"] or "").partition(",")[2], validate=True)
        assert svg.rstrip().endswith(b"</svg>")
        assert b"<script" not in svg
    assert "Zero throughout, and not drawn: Clipped tokens." in read.text


def test_the_table_of_evaluations_has_the_run_s_numbers(read: Read) -> None:
    seen, unseen, course = read.tables[:3]
    rows = {row[0]: row[1:] for row in seen[1:]}
    # Wilson's interval of 175 right of 200.
    after = ["87.5", "82.2 – 91.4", "90.0", "0.4375", "1.50", "2.0", "200"]
    assert rows["Policy after training (step 40)"] == after
    assert rows["Policy before training (step 0)"][0] == "50.0"
    assert rows["Most competent candidate"][0] == "95.0"
    assert rows["Best constant in hindsight: seen-polymath"][:1] == ["65.0"]
    assert rows["Best constant in hindsight: seen-polymath"][5] == "1.0"
    assert rows["Random routing"][0] == "20.0"
    assert [row[:2] for row in unseen[1:]] == [["Policy after training (step 40)", "80.0"]]
    assert [(row[0], row[1], row[-1]) for row in course[1:]] == [
        ("0", "50.0", "–"),
        ("20", "87.5", "well"),
        ("40", "87.5", "well"),
    ]
    assert "in no number: 2 (Policy after training)" in read.text


def test_the_result_is_said_in_sentences_with_numbers(read: Read) -> None:
    assert (
        "After 40 steps the policy answers 87.5 % of 200 held-out questions exactly; the policy before training "
        "50.0 %, the most competent candidate 95.0 %, the best constant in hindsight (seen-polymath) 65.0 % and random "
        "routing 20.0 %."
    ) in read.text
    assert "The candidates' price of 1,000 questions is $0.438; the policy before training $0.25, " in read.text
    assert "The run spent $12.50 on candidates." in read.text
    assert "Finished · step 40 of 40 · 10.0 minutes · recipe quickstart" in read.text
    assert "75 %" in read.text  # of the gap between the best constant and the most competent


def test_spending_is_told_by_candidate(read: Read) -> None:
    [table] = [table for table in read.tables if table[0][0] == "Candidate"]
    rows = {row[0]: row[1:] for row in table[1:]}
    assert rows["seen-polymath"][2:] == ["8.0000", "66.7", "50.0", "0.0", "0.0"]
    assert rows["seen-chef"][2:] == ["4.0000", "33.3", "25.0", "100.0", "50.0"]
    assert rows["unseen-chef"][4:] == ["–", "–", "100.0"]
    assert rows["All"][2] == "12.0000"


def test_what_candidates_wrote_is_shown_as_text(html: str, read: Read) -> None:
    assert EVIL.splitlines()[0] in read.text
    assert "<script" not in html
    assert "evil.example" in html
    assert "WARNING cluster.training.run: <b>slow</b>" in read.text
    assert "b" not in read.tags


def test_trajectories_are_good_bad_and_dear_and_of_late(read: Read) -> None:
    kinds = re.findall(r"(Good|Bad|Expensive)[^·\n]*· (held-out question|training) · step (\d+)", read.text)
    assert [kind for kind, _, _ in kinds] == ["Good", "Good", "Bad", "Bad", "Expensive", "Expensive"]
    assert [where for _, where, _ in kinds][:3] == ["held-out question"] * 3
    assert all(int(step) >= 30 for _, _, step in kinds)
    numbers = re.findall(r"who wrote number (\d+) \?", read.text)
    assert len(set(numbers)) == len(numbers) == 6


def test_the_dearest_is_shown_though_its_question_came_cheaper_too() -> None:
    def dear(question: str, usd: float) -> Told:
        return Told(
            1, "train", question, [f"stop: answered, 1 calls, {usd:.6f} USD", "reward: 0.0000 = 0 (em 0, f1 0)"]
        )

    those = [dear("q1", 5), dear("q2", 4), dear("q3", 3), dear("q1", 0.01)]
    wrong = [dear(f"w{number}", 0) for number in range(2)]
    shown = [each for each in telling_episodes([*wrong, *those]) if each.why.startswith("Expensive")]
    assert [each.title for each in shown] == ["q1", "q2"]


def test_warnings_are_counted_and_passwords_are_not_shown(read: Read, html: str) -> None:
    assert "1 warning and 0 errors in log.txt." in read.text
    assert "http://***@h" in read.text
    assert "me:pw" not in html


def test_a_run_that_is_well_has_no_alarm(read: Read) -> None:
    assert "Look at this" not in read.text


@pytest.mark.parametrize(
    ("after", "sentence"),
    [
        (
            replace(AFTER, em=0.66),
            "The policy is no better than always asking seen-polymath: exact match 0.660 against",
        ),
        (replace(AFTER, call_share=SINGLE.call_share), "100.0% of all calls go to seen-polymath."),
        (replace(AFTER, void=50), "20% of the held-out episodes failed for technical reasons"),
    ],
)
def test_what_is_wrong_is_said_first(tmp_path: Path, after: object, sentence: str) -> None:
    folder = make_folder(tmp_path)
    folder.append_metrics({"step": 1, **training_row(1)})
    folder.write_summary(summary() | {"after": asdict(after)})  # type: ignore[call-overload]
    [found] = alarms_of(folder.path)
    assert found.startswith(sentence)


def test_skipped_batches_are_told(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.append_metrics({"step": 1, **training_row(1), "learner/bad_steps": 1.0})
    assert alarms_of(folder.path)[-1].startswith(
        "Batches skipped because a reward, loss or gradient was not finite: 1."
    )


def test_a_run_that_has_only_begun_has_a_page_that_says_so(tmp_path: Path) -> None:
    make_folder(tmp_path)  # and release its lock
    gc.collect()
    found = Read(render(run_page(tmp_path / "made")))
    assert "Stopped before its end · step 0 of" in found.text
    assert "Nothing is known yet about the effect of training" in found.text
    assert "No evaluation was made yet" in found.text
    assert "No step of training has ended yet." in found.text
    assert not found.pictures


def test_a_run_stopped_before_an_evaluation_shows_its_curves_and_is_watched_all_the_same(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.append_metrics({"step": 1, **training_row(1)})
    found = Read(render(run_page(folder.path)))
    assert "No evaluation was made yet" in found.text
    assert "Look at this: 97.5% of all calls go to seen-polymath." in found.text
    assert found.pictures


def test_a_run_that_is_going_on_says_so_and_is_left_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path)  # it holds the lock until it is closed
    stop_short(folder, STEPS // 2)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.path.rglob("*"))
    record = read_record(folder.path)
    assert status(record).startswith(f"Still going on · step {STEPS // 2} of {STEPS}")
    assert result(record)[0].startswith(f"After {STEPS // 2} steps the policy answers 87.5 %")
    candidates_table(record, run_cards(record))
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.path.rglob("*")) == before
    with (folder.path / "run.lock").open("a") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_finished_run_that_went_on_and_was_stopped_is_not_finished(finished: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(finished, tmp_path / "again")
    with (copied / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": STEPS + 1, **training_row(STEPS)}) + "\n")
    assert "Stopped before its end · step 41" in status(read_record(copied))


def test_the_command_writes_the_page_and_says_where(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for arguments, file in (((), "made/report.html"), (("--out", tmp_path / "deep" / "page.html"), "deep/page.html")):
        done = report(tmp_path / "made", *arguments)
        assert done.exit_code == 0, done.output
        assert done.output.startswith(f"{tmp_path / file}: ")
        assert (tmp_path / file).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("fault", ["missing", "no run", "metrics", "summary", "list", "out"])
def test_faults_name_file_and_remedy(tmp_path: Path, fault: str) -> None:
    path, out = tmp_path / "made", tmp_path / "made" / "report.html"
    if fault == "no run":
        path.mkdir()
    elif fault != "missing":
        folder = make_folder(tmp_path)
        if fault == "metrics":
            folder.metrics_file.write_text('{"step": 1}\n{"step"\n{"step": 3}\n', encoding="utf-8")
        elif fault == "out":
            out = folder.config_file / "page.html"
        else:
            folder.summary_file.write_text("{" if fault == "summary" else "[]", encoding="utf-8")
    error = report(path, "--out", out).exception
    assert isinstance(error, RunFolderError)
    expected = {"missing": "no such folder; give", "no run": "neither config.yaml nor asked.json",
                "metrics": "metrics.jsonl: damaged",
                "summary": "summary.json: damaged", "list": "holds list, not a summary",
                "out": "with --out"}  # fmt: skip
    assert expected[fault] in str(error)


def test_numbers_stand_to_the_right_and_unknown_ones_are_dashes(html: str) -> None:
    assert '<td class="number">87.5</td>' in html
    with pytest.raises(ValueError, match=r"table 't': row \['1', '2'\] has not 1 cells"):
        Table("t", [Column("a")], [["1", "2"]])


@pytest.mark.skipif(CHROMIUM is None, reason=BROWSER)
def test_a_browser_shows_it_and_asks_for_nothing(html: str, tmp_path: Path) -> None:
    answer = show(html, tmp_path, "tr.main td.number")
    assert answer["drawn"] == answer["there"] == html.count("<img ") > 10
    assert answer["loaded"] == []
    assert answer["cell"] == "87.5"
    assert answer["side"] == "right"
    assert answer["wide"] <= 0  # the page is not wider than the window
    assert not answer["requests"]
