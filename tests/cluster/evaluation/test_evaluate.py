"""`router-r1 evaluate` without an engine: the table does not depend on interruptions, and no call is made twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from endpoints import Endpoints, write_cards, write_questions
from evaluations import chat, check_unique, lines, numbers, run
from shared_data import DATA, needs_data

from actors.episodes.remote_model import RemoteModelError
from actors.pool.transport import PoolError
from actors.questions import QuestionError
from benchmarks.baselines import contests
from benchmarks.baselines.contests import TRAIN_SHARE
from benchmarks.baselines.recorded_table import recorded_table
from benchmarks.baselines.router import RouterError
from benchmarks.evaluation.reply_table import ReplyTableError, split
from cluster.cli import evaluate as evaluate_cli
from cluster.config.loading import load_config
from cluster.episodes.candidates import trained_cards
from cluster.episodes.judging import BudgetSpent
from cluster.evaluation.frontier_points import read_points
from cluster.evaluation.options import EvaluateError, EvaluationOptions
from cluster.evaluation.target import Target, pool_notes
from cluster.players.responder import PolicySource
from cluster.runs.files import RunFolderError

pytestmark = pytest.mark.thorough

QUICK = ("alone", "random", "cheapest", "best_constant_training", "cheapest_right")


@pytest.fixture(autouse=True)
def _little_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contests, "_WORLD_TRAIN", 100)


@needs_data
def test_recorded_replies_give_the_numbers_of_another_computation(tmp_path: Path) -> None:
    file = DATA / "scores_llmrouter_nq.jsonl"
    out, _ = run(EvaluationOptions(f"recorded:{file}", baselines=QUICK, out=tmp_path / "out"))
    found = numbers(out)
    train, test = split(recorded_table(file), TRAIN_SHARE, 0)
    for column, name in enumerate(test.names):
        row = found[f"alone:{name}"]
        assert row["em_all"] == pytest.approx(test.correct[:, column].mean())
        assert row["usd_per_1k"] == pytest.approx(1000 * test.cost_usd[:, column].mean())
        assert row["latency_s"] == pytest.approx(test.latency_s[:, column].mean())
        assert row["call_share"] == {name: 1.0}
    assert found["cheapest_right"]["em_all"] == pytest.approx(test.correct.max(axis=1).mean())
    best = test.names[int(np.argmax(train.correct.mean(axis=0)))]
    assert found["best_constant_training"]["call_share"] == {best: 1.0}
    against = json.loads((out / "evaluation.json").read_text())["against"]
    assert against[f"alone:{best}"]["comparison"]["p_value"] == 1.0  # the same row under another name
    assert "best_constant_training" not in against
    check_unique(out)


_SLOWLY = """
import sys, time
from pathlib import Path
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import EvaluationOptions
import benchmarks.baselines.contests
benchmarks.baselines.contests._WORLD_TRAIN = 100
add = EvaluationFolder.add
def slowly(self, item):
    add(self, item)
    time.sleep(600 if len(self.items) > 60 else 0.005)
EvaluationFolder.add = slowly
names = ("random", "cheapest_right", "cheapest")
asked = EvaluationOptions("world", limit=40, baselines=names, out=Path(sys.argv[1]), resamples=199)
evaluate(asked, print, lambda *_: None)
"""


def test_killed_in_its_midst_it_goes_on_to_the_same_table(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", _SLOWLY, str(out)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    items = out / "items.jsonl"
    until = time.monotonic() + 120
    while not (items.is_file() and len(items.read_bytes().splitlines()) > 50):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert not (out / "table.md").exists()
    with items.open("a", encoding="utf-8") as file:
        file.write('{"row": "cheapest_right", "data')  # and an incomplete line
    options = EvaluationOptions("world", limit=40, baselines=("random", "cheapest_right", "cheapest"))
    run(dataclasses.replace(options, out=out))
    whole, _ = run(dataclasses.replace(options, out=tmp_path / "whole"))
    assert (out / "table.md").read_text() == (whole / "table.md").read_text()
    assert sorted(items.read_text().splitlines()) == sorted((whole / "items.jsonl").read_text().splitlines())
    check_unique(out)
    again = items.read_bytes()
    run(dataclasses.replace(options, out=out))
    assert items.read_bytes() == again


def test_another_model_plays_the_policy_and_goes_on_without_a_call_twice(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path)
    endpoints.patience = 9
    with pytest.raises(RemoteModelError, match="refused the key"):
        run(dataclasses.replace(options, concurrency=1))
    before = dict(endpoints.asked)
    done = len(lines(tmp_path / "out"))
    assert done == 4
    assert before["alpha"] + before["beta"] == 5  # the last episode was interrupted after its call
    assert not (tmp_path / "out" / "table.md").exists()

    endpoints.patience = None
    out, said = run(options)
    assert said[0] == f"{done} of 10 episodes were played before"
    check_unique(out)
    candidates = endpoints.asked["alpha"] + endpoints.asked["beta"]
    assert candidates == 10
    assert endpoints.asked["sage"] > before["sage"]
    row = numbers(out)["policy"]
    rights = [item["em"] for item in lines(out)]
    alphas = [item["calls"] == [["alpha", "ok"]] for item in lines(out)]
    assert rights == [float(alpha) for alpha in alphas]
    assert row["em_all"] == pytest.approx(np.mean(alphas))
    assert row["ended"]["refusals"] == 10 - sum(alphas)
    assert row["policy_usd_per_1k"] == pytest.approx(1000 * 2 * (100 * 1 + 10 * 10) / 1e6)
    spent = json.loads((out / "evaluation.json").read_text())["spent_usd"]
    assert spent == pytest.approx(sum(item["cost_usd"] for item in lines(out)))

    asked, table = Counter(endpoints.asked), (out / "table.md").read_text()
    _, said = run(options)
    assert said[0] == "10 of 10 episodes were played before"
    assert endpoints.asked == asked
    assert (out / "table.md").read_text() == table
    for file in ("table.md", "evaluation.json"):  # the state after a kill behind the last episode
        (out / file).unlink()
    run(options)
    assert (out / "table.md").read_text() == table
    assert json.loads((out / "evaluation.json").read_text())["spent_usd"] == pytest.approx(spent)

    replay = ("candidates.pool.ledger=replay", f"candidates.pool.ledger_url={out / 'ledger.sqlite'}")
    again, _ = run(dataclasses.replace(options, out=tmp_path / "again", overrides=(*options.overrides, *replay)))
    assert (again / "table.md").read_text() == table  # to the last digit, latencies too
    assert (endpoints.asked - asked).keys() == {"sage"}
    assert json.loads((again / "evaluation.json").read_text())["spent_usd"] == 0


def test_a_policy_is_asked_everything_under_every_budget(endpoints: Endpoints, tmp_path: Path) -> None:
    out, _ = run(dataclasses.replace(chat(endpoints, tmp_path), budgets_usd=(0.0001, 0.5)))
    rows = numbers(out)
    assert [name for name in rows if name.startswith("policy")] == ["policy, budget=0.0001", "policy, budget=0.5"]
    check_unique(out)
    assert Counter(item["row"] for item in lines(out)) == {"policy, budget=0.0001": 10, "policy, budget=0.5": 10}
    assert endpoints.asked["alpha"] + endpoints.asked["beta"] == 20  # the two budgets share no calls
    assert "the policy was not trained with budgets" in (out / "table.md").read_text()
    read = (out / "episodes.jsonl").read_text()
    assert all(read.count(f"- budget: {usd} USD") == 10 for usd in ("0.0001", "0.5"))
    points, _ = read_points([out])
    assert [(point.method.split(" (")[0], point.knob) for point in points if "budget" in point.method] == [
        ("policy", "budget=0.0001 USD"),
        ("policy", "budget=0.5 USD"),
    ]


def test_everyone_is_asked_only_when_told_to_and_the_price_is_said_first(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path, 12, baselines=("alone", "largest", "cheapest_right"), fit_questions=10)
    out, _ = run(options)
    assert "give --ask-everyone" in (out / "table.md").read_text()
    asked = dict(endpoints.asked)
    with pytest.raises(EvaluateError, match=r"--ask-everyone may cost 0\.\d+ USD, more than --max-usd 0;"):
        run(dataclasses.replace(options, ask_everyone=True, max_usd=0.0))
    assert dict(endpoints.asked) == asked
    out, said = run(dataclasses.replace(options, ask_everyone=True))
    assert "12 questions and 10 to learn from, to 2 candidates: at most 0." in said[-1]
    found = numbers(out)
    assert (found["alone:alpha"]["em_all"], found["alone:alpha"]["ended"]["refusals"]) == (1.0, 0)
    assert (found["alone:beta"]["em_all"], found["alone:beta"]["ended"]["refusals"]) == (0.0, 12)
    assert found["largest"]["call_share"] == {"alpha": 1.0}
    # The policy is scored by exact match, and candidates, who answer in sentences, by whether they contain the answer.
    assert (found["policy"]["measure"], found["alone:alpha"]["measure"]) == ("exact match", "holds")
    gap = json.loads((out / "evaluation.json").read_text())["against"]["alone:alpha"]
    assert gap["measure"] == "holds"
    assert gap["comparison"]["difference"]["mean"] == pytest.approx(1 - found["policy"]["em_all"])
    assert "| Right by |" in (out / "table.md").read_text()
    assert found["policy"]["questions"] == 12
    before = dict(endpoints.asked)
    run(dataclasses.replace(options, ask_everyone=True))
    with pytest.raises(RunFolderError, match=r"baselines of another making \(learnt_from was '10, \w+', is '11, "):
        run(dataclasses.replace(options, ask_everyone=True, fit_questions=11))
    write_questions(tmp_path / "train.jsonl", range(200, 230))
    with pytest.raises(RunFolderError, match=r"learnt_from was '10, \w+', is '10, "):
        run(dataclasses.replace(options, ask_everyone=True))
    run(options)  # it makes no calls, and needs no other folder
    assert dict(endpoints.asked) == before


def test_a_spent_cap_ends_it_and_without_the_cap_it_goes_on(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path, concurrency=1)
    capped = (*options.overrides, "candidates.pool.cap_usd_per_run=0.0012")
    with pytest.raises(BudgetSpent, match=r"cap_usd_per_run=0\.0012.*the same command goes on"):
        run(dataclasses.replace(options, overrides=capped))
    assert 0 < len(lines(tmp_path / "out")) < 10
    out, _ = run(options)
    check_unique(out)
    assert endpoints.asked["alpha"] + endpoints.asked["beta"] == len(lines(out)) == 10


def test_candidates_that_fail_are_no_answers_and_are_asked_again(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path, 6)
    endpoints.broken = {"beta"}
    out, _ = run(options)
    row = numbers(out)["policy"]
    assert row["lost"] == 6 - row["questions"] > 0
    assert "failures.jsonl" in (out / "table.md").read_text()
    endpoints.broken = set()
    out, _ = run(options)
    check_unique(out)
    assert (numbers(out)["policy"]["questions"], numbers(out)["policy"]["lost"]) == (6, 0)
    endpoints.broken = {"alpha", "beta"}
    with pytest.raises(EvaluateError, match=r"8 episodes in a row failed, the last of question .t.*: a call to"):
        run(chat(endpoints, tmp_path, 12, out=tmp_path / "broken"))


def test_candidates_that_are_not_there_are_told_at_once(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path)
    write_cards(tmp_path / "cards.yaml", "http://127.0.0.1:9/v1")
    with pytest.raises(PoolError, match=r"127\.0\.0\.1:9"):
        run(options)
    assert not endpoints.asked


def test_questions_whose_hops_nobody_knows_are_counted(endpoints: Endpoints, tmp_path: Path) -> None:
    known = write_questions(tmp_path / "nq.jsonl", range(200, 203), "nq")
    options = chat(endpoints, tmp_path, 5)
    out, _ = run(dataclasses.replace(options, datasets=(*options.datasets, known)))
    [row] = numbers(out).values()
    assert {hops: part["questions"] for hops, part in row["by_hops"].items()} == {"1": 3}
    assert row["questions"] == 8
    note = "Note: 5 of 8 questions have no known hop count and are in no row by hops: things 5\n"
    assert note in (out / "table.md").read_text()
    out, _ = run(dataclasses.replace(options, datasets=(known,), out=tmp_path / "known"))
    assert "hop count" not in (out / "table.md").read_text()


def test_one_question(endpoints: Endpoints, tmp_path: Path) -> None:
    out, _ = run(chat(endpoints, tmp_path, 1))
    assert numbers(out)["policy"]["em"]["low"] is None
    assert "nan" not in (out / "table.md").read_text()


def test_another_evaluation_does_not_go_on_in_a_folder(tmp_path: Path) -> None:
    first = EvaluationOptions("world", limit=5, baselines=("random",), out=tmp_path)
    run(first)
    with pytest.raises(
        RunFolderError, match=r"another evaluation \(protocol was 'paper', is 'full'; questions was '5, "
    ):
        run(dataclasses.replace(first, protocol="full"))
    (tmp_path / "items.jsonl").write_text("{}\n" + (tmp_path / "items.jsonl").read_text())
    with pytest.raises(RunFolderError, match=r"items.jsonl, line 1: no item of an evaluation"):
        run(first)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (EvaluationOptions("http://127.0.0.1:1/v1"), EvaluateError, "needs --model"),
        (
            EvaluationOptions("http://me:secret@127.0.0.1:1/v1", model="m"),
            EvaluateError,
            "URL must hold no credentials",
        ),
        (EvaluationOptions("world", model="x"), EvaluateError, "--model x needs a URL"),
        (
            EvaluationOptions("http://127.0.0.1:1/v1", model="m", engines=2),
            EvaluateError,
            "--engines 2 with http://127.0.0.1:1/v1: the model there plays",
        ),
        (EvaluationOptions("world", engines=2), EvaluateError, "--engines with world: no policy plays there"),
        (EvaluationOptions("world", samples=3), EvaluateError, "--samples with world: no policy plays there"),
        (EvaluationOptions("world", budgets_usd=(0.1,)), EvaluateError, "--budget with world: no policy plays there"),
        (
            EvaluationOptions("runs/x", budgets_usd=(0.1, -1.0)),
            EvaluateError,
            "--budget -1: must be a number of US dollars",
        ),
        (EvaluationOptions("runs/x", budgets_usd=(0.1, 0.1)), EvaluateError, r"--budget 0\.1 comes twice"),
        (EvaluationOptions("world", baselines=("none",)), EvaluateError, "leaves no row"),
        (EvaluationOptions("world", baselines=("knnn",)), RouterError, "baseline 'knnn': not found"),
        (EvaluationOptions("world", datasets=("nosuchset",)), QuestionError, "'nosuchset': unknown"),
        (
            EvaluationOptions("world", datasets=("world:train",), limit=9, baselines=("random",)),
            ReplyTableError,
            "trained on",
        ),
        (
            EvaluationOptions("world", limit=3, baselines=("random",), against="knn"),
            EvaluateError,
            "--against knn: no such",
        ),
        (EvaluationOptions("http://h/v1", model="m", api_key_env="NO_SUCH_KEY_HERE"), EvaluateError, "not set"),
        (EvaluationOptions("runs/no-such-run"), RunFolderError, "no such folder"),
    ],
)
def test_what_can_not_be_done_is_refused(
    options: EvaluationOptions, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(dataclasses.replace(options, out=tmp_path / "out"))


def test_baselines_that_are_all_left_out_are_no_table(tmp_path: Path) -> None:
    replies = [
        {"id": f"q{n}", "question": f"who is {n} ?", "model": model, "response": "x", "correct": n % 2 == 0}
        for n in range(20) for model in ("ChatGPT-4", "BingChat")
    ]  # fmt: skip
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in replies), encoding="utf-8")
    with pytest.raises(EvaluateError, match=r"no row is left to show: largest: .*tell no size"):
        run(EvaluationOptions(f"recorded:{path}", baselines=("largest",), out=tmp_path / "out"))


def test_replies_that_were_corrected_are_another_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    asked = EvaluationOptions(f"recorded:{path}", baselines=("alone",), out=tmp_path / "out")
    for right in (True, False):
        replies = [
            {"id": f"q{n}", "question": f"who is {n} ?", "model": model, "response": "x", "correct": right}
            for n in range(20) for model in ("ChatGPT-4", "BingChat")
        ]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in replies), encoding="utf-8")
        if right:
            run(asked)
    with pytest.raises(RunFolderError, match=r"another evaluation .*replies"):
        run(asked)


def test_only_the_worlds_experts_answer_the_worlds_questions(tmp_path: Path) -> None:
    asked = write_questions(tmp_path / "asked.jsonl", range(3))
    with pytest.raises(EvaluateError, match=r"'things' with candidates\.serve=world"):
        run(EvaluationOptions("http://127.0.0.1:1/v1", model="m", datasets=(asked,), out=tmp_path / "out"))


def test_a_pool_other_than_the_one_trained_with_is_told(tmp_path: Path) -> None:
    config = load_config("quickstart")
    cards = tuple(trained_cards(config))
    (tmp_path / "config.yaml").write_text(json.dumps(config.dump()), encoding="utf-8")
    source = PolicySource(tmp_path, config, "run", 0, tmp_path, tmp_path / "ledger.sqlite")
    assert pool_notes(Target(config, "run", source=source), cards) == []
    dearer = (cards[0].model_copy(update={"price_out_usd_per_mtok": 99.0}), *cards[2:])
    [note] = pool_notes(Target(config, "run", source=source), dearer)
    assert f"{cards[1].name} is missing" in note
    assert f"{cards[0].name}: price_out_usd_per_mtok was" in note
    homeless = dataclasses.replace(source, run=None)
    assert "not known" in pool_notes(Target(config, "x", source=homeless), cards)[0]


def test_what_an_engine_prints_does_not_stand_in_the_table(capfd: pytest.CaptureFixture[str]) -> None:
    with evaluate_cli._table_alone():
        sys.stdout.write("printed\n")
        os.write(1, b"written\n")
        subprocess.run(["echo", "a process's"], check=True)
    sys.stdout.write("the table\n")
    out, err = capfd.readouterr()
    assert out == "the table\n"
    for text in ("printed", "written", "a process's"):
        assert text in err
