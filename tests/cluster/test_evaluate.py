"""`router-r1 evaluate`: the same table however often it was stopped, and no call twice; without an engine."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoints import Endpoints, Words, write_cards, write_questions

from actors.pool.transport import PoolError
from actors.questions import Question, QuestionError
from actors.teacher import TeacherError
from benchmarks import contests
from benchmarks.baselines.router import RouterError
from benchmarks.contests import TRAIN_SHARE
from benchmarks.evaluation import Outcome
from benchmarks.question_sets import load_source
from benchmarks.recorded_table import recorded_table
from benchmarks.reply_table import ReplyTableError, split
from benchmarks.world.baselines import baselines as played_baselines
from benchmarks.world.baselines import play
from benchmarks.world.experts import Expert, count_tokens, experts
from benchmarks.world.facts import Hop, World
from cluster import evaluate_cli, evaluation_policy
from cluster.batch import BudgetSpent
from cluster.config import load_config
from cluster.disk import RunFolderError
from cluster.evaluate import evaluate
from cluster.evaluation_assignment import Assignment, EvaluateError
from cluster.evaluation_target import Target, pool_notes, trained_cards
from cluster.responder import PolicySource

DATA = Path(__file__).parents[3] / "shared" / "data"
FEW = 199  # resamples
QUICK = ("alone", "random", "cheapest", "best_constant", "oracle")


@pytest.fixture(autouse=True)
def _little_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contests, "_WORLD_TRAIN", 100)


def run(assignment: Assignment) -> tuple[Path, list[str]]:
    said: list[str] = []
    return evaluate(dataclasses.replace(assignment, resamples=FEW), said.append, lambda *_: None), said


def numbers(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of an evaluation, by name."""
    return {row["name"]: row for row in json.loads((folder / "evaluation.json").read_text())["rows"]}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def check_unique(folder: Path) -> None:
    keys = Counter((row["row"], row["dataset"], row["question"], row["sample"]) for row in lines(folder))
    assert keys
    assert set(keys.values()) == {1}


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
def test_recorded_replies_give_the_numbers_of_another_computation(tmp_path: Path) -> None:
    file = DATA / "scores_llmrouter_nq.jsonl"
    out, _ = run(Assignment(f"recorded:{file}", baselines=QUICK, out=tmp_path / "out"))
    found = numbers(out)
    train, test = split(recorded_table(file), TRAIN_SHARE, 0)
    for column, name in enumerate(test.names):
        row = found[f"alone:{name}"]
        assert row["em_all"] == pytest.approx(test.correct[:, column].mean())
        assert row["usd_per_1k"] == pytest.approx(1000 * test.cost_usd[:, column].mean())
        assert row["latency_s"] == pytest.approx(test.latency_s[:, column].mean())
        assert row["call_share"] == {name: 1.0}
    assert found["oracle"]["em_all"] == pytest.approx(test.correct.max(axis=1).mean())
    best = test.names[int(np.argmax(train.correct.mean(axis=0)))]
    assert found["best_constant"]["call_share"] == {best: 1.0}
    against = json.loads((out / "evaluation.json").read_text())["against"]
    assert against[f"alone:{best}"]["comparison"]["p_value"] == 1.0  # the same row under another name
    assert "best_constant" not in against
    check_unique(out)


def test_the_worlds_baselines_are_those_of_its_own_bench(tmp_path: Path) -> None:
    out, _ = run(Assignment("world", limit=60, baselines=QUICK, out=tmp_path / "out"))
    found = numbers(out)
    drawn = {(row["dataset"], row["question"]) for row in lines(out)}
    all_ = load_source("world:heldout", limit=None, two_hop_share=0.4)
    expected = played_baselines([q for q in all_ if (q.dataset, q.id) in drawn], "seen", 0)
    singles = [row for name, row in found.items() if name.startswith("alone:")]
    best = max(singles, key=lambda row: row["em_all"])
    assert best["em_all"] == pytest.approx(expected["best_single"].em)
    assert set(found["oracle"]["by_set"]) == {"world-1hop", "world-2hop"}
    mean = np.mean([part["em"]["mean"] for part in best["by_set"].values()])
    assert best["em"]["mean"] == pytest.approx(mean)
    assert set(best["by_hops"]) == {"1", "2"}
    assert best["prompt_tokens"] > 0 < best["latency_s"]


def chosen_at_random(question: Question, step: int, hop: Hop, world: World) -> Expert:
    return random.Random(f"random-0-{question.id}#{step}").choice(experts("seen"))


def cheapest_who_is_right(question: Question, step: int, hop: Hop, world: World) -> Expert:
    """Or the cheapest of all, where nobody is."""
    prices = {
        each.name: each.cost_usd(count_tokens(hop.query), count_tokens(each.reply(hop, world)))
        for each in experts("seen")
    }
    return min(experts("seen"), key=lambda each: (not each.answers_rightly(hop, world), prices[each.name]))


@pytest.mark.parametrize(("row", "choose"), [("random", chosen_at_random), ("oracle", cheapest_who_is_right)])
def test_random_and_oracle_over_the_world_are_those_played_by_hand(
    row: str, choose: Callable[[Question, int, Hop, World], Expert], tmp_path: Path
) -> None:
    out, _ = run(Assignment("world", limit=60, baselines=(row,), out=tmp_path / "out"))
    items = {(item["dataset"], item["question"]): item for item in lines(out)}
    world, played = World(), {}
    for question in load_source("world:heldout", limit=None, two_hop_share=0.4):
        if (question.dataset, question.id) in items:
            steps = itertools.count()
            outcome = play(question, world, lambda hop, q=question, n=steps: choose(q, next(n), hop, world))  # type: ignore[misc]
            played[question.dataset, question.id] = outcome
    assert len(played) == len(items) == 60
    for key, outcome in played.items():
        assert (items[key]["em"], items[key]["f1"]) == (outcome.em, outcome.f1)
        assert items[key]["cost_usd"] == pytest.approx(outcome.cost_usd, rel=1e-12)
        assert items[key]["calls"] == [[name, "ok"] for name in outcome.asked]
    by_set: dict[str, list[Outcome]] = {}
    for (dataset, _), outcome in played.items():
        by_set.setdefault(dataset, []).append(outcome)
    figures = numbers(out)[row]
    assert figures["em_all"] == pytest.approx(np.mean([outcome.em for outcome in played.values()]))
    assert figures["em"]["mean"] == pytest.approx(np.mean([np.mean([o.em for o in part]) for part in by_set.values()]))
    usd = np.mean([np.mean([o.cost_usd for o in part]) for part in by_set.values()])
    assert figures["usd_per_1k"] == pytest.approx(1000 * usd)
    asked = Counter(name for outcome in played.values() for name in outcome.asked)
    assert figures["call_share"] == pytest.approx({name: n / asked.total() for name, n in asked.items()})


_SLOWLY = """
import sys, time
from pathlib import Path
from cluster.evaluate import evaluate
from cluster.evaluation_folder import EvaluationFolder
from cluster.evaluation_assignment import Assignment
import benchmarks.contests
benchmarks.contests._WORLD_TRAIN = 100
add = EvaluationFolder.add
def slowly(self, item):
    add(self, item)
    time.sleep(0.005)
EvaluationFolder.add = slowly
asked = Assignment("world", limit=40, baselines=("random", "oracle", "cheapest"), out=Path(sys.argv[1]), resamples=199)
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
        file.write('{"row": "oracle", "data')  # and a line that was cut short
    assignment = Assignment("world", limit=40, baselines=("random", "oracle", "cheapest"))
    run(dataclasses.replace(assignment, out=out))
    whole, _ = run(dataclasses.replace(assignment, out=tmp_path / "whole"))
    assert (out / "table.md").read_text() == (whole / "table.md").read_text()
    assert sorted(items.read_text().splitlines()) == sorted((whole / "items.jsonl").read_text().splitlines())
    check_unique(out)
    again = items.read_bytes()
    run(dataclasses.replace(assignment, out=out))
    assert items.read_bytes() == again


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    monkeypatch.setattr(evaluation_policy, "load_tokenizer", lambda _: Words())  # importing transformers takes seconds
    made = Endpoints()
    yield made
    made.stop()


def chat(endpoints: Endpoints, tmp_path: Path, count: int = 10, **changes: Any) -> Assignment:
    """An evaluation of `sage` over both candidates."""
    train = write_questions(tmp_path / "train.jsonl", range(100, 130))
    asked = write_questions(tmp_path / "asked.jsonl", range(count))
    return Assignment(
        **{
            "target": endpoints.url,
            "model": "sage",
            "datasets": (asked,),
            "baselines": ("none",),
            "out": tmp_path / "out",
            "concurrency": 2,
            "price_in": 1.0,
            "price_out": 10.0,
            "overrides": (
                "candidates.serve=none",
                f"candidates.pool.cards={write_cards(tmp_path / 'cards.yaml', endpoints.url)}",
                f"data.train={train}",
                f"data.eval={asked}",
            ),
        }
        | changes
    )


def test_another_model_plays_the_policy_and_goes_on_without_a_call_twice(endpoints: Endpoints, tmp_path: Path) -> None:
    assignment = chat(endpoints, tmp_path)
    endpoints.patience = 9
    with pytest.raises(TeacherError, match="refused the key"):
        run(dataclasses.replace(assignment, concurrency=1))
    before = dict(endpoints.asked)
    done = len(lines(tmp_path / "out"))
    assert done == 4
    assert before["alpha"] + before["beta"] == 5  # the last episode was cut short after its call
    assert not (tmp_path / "out" / "table.md").exists()

    endpoints.patience = None
    out, said = run(assignment)
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
    _, said = run(assignment)
    assert said[0] == "10 of 10 episodes were played before"
    assert endpoints.asked == asked
    assert (out / "table.md").read_text() == table
    for file in ("table.md", "evaluation.json"):  # as when it was killed after the last episode
        (out / file).unlink()
    run(assignment)
    assert (out / "table.md").read_text() == table
    assert json.loads((out / "evaluation.json").read_text())["spent_usd"] == pytest.approx(spent)

    replay = ("candidates.pool.ledger=replay", f"candidates.pool.ledger_url={out / 'ledger.sqlite'}")
    again, _ = run(dataclasses.replace(assignment, out=tmp_path / "again", overrides=(*assignment.overrides, *replay)))
    assert (again / "table.md").read_text() == table  # to the last digit, latencies too
    assert (endpoints.asked - asked).keys() == {"sage"}
    assert json.loads((again / "evaluation.json").read_text())["spent_usd"] == 0


def test_everyone_is_asked_only_when_told_to_and_the_price_is_said_first(endpoints: Endpoints, tmp_path: Path) -> None:
    assignment = chat(endpoints, tmp_path, 12, baselines=("alone", "largest", "oracle"), fit_questions=10)
    out, _ = run(assignment)
    assert "say --ask-everyone" in (out / "table.md").read_text()
    asked = dict(endpoints.asked)
    with pytest.raises(EvaluateError, match=r"--ask-everyone may cost 0\.\d+ USD, more than --max-usd 0;"):
        run(dataclasses.replace(assignment, ask_everyone=True, max_usd=0.0))
    assert dict(endpoints.asked) == asked
    out, said = run(dataclasses.replace(assignment, ask_everyone=True))
    assert "12 questions and 10 to learn from, to 2 candidates: at most 0." in said[-1]
    found = numbers(out)
    assert (found["alone:alpha"]["em_all"], found["alone:alpha"]["ended"]["refusals"]) == (1.0, 0)
    assert (found["alone:beta"]["em_all"], found["alone:beta"]["ended"]["refusals"]) == (0.0, 12)
    assert found["largest"]["call_share"] == {"alpha": 1.0}
    # The policy is scored by exact match, and those who answer in sentences by what they hold.
    assert (found["policy"]["measure"], found["alone:alpha"]["measure"]) == ("exact match", "holds")
    gap = json.loads((out / "evaluation.json").read_text())["against"]["alone:alpha"]
    assert gap["measure"] == "holds"
    assert gap["comparison"]["difference"]["mean"] == pytest.approx(1 - found["policy"]["em_all"])
    assert "| right by |" in (out / "table.md").read_text()
    assert found["policy"]["questions"] == 12
    before = dict(endpoints.asked)
    run(dataclasses.replace(assignment, ask_everyone=True))
    with pytest.raises(RunFolderError, match=r"baselines of another making \(learnt_from was '10, \w+', is '11, "):
        run(dataclasses.replace(assignment, ask_everyone=True, fit_questions=11))
    write_questions(tmp_path / "train.jsonl", range(200, 230))
    with pytest.raises(RunFolderError, match=r"learnt_from was '10, \w+', is '10, "):
        run(dataclasses.replace(assignment, ask_everyone=True))
    run(assignment)  # that asks nobody, and needs no other folder
    assert dict(endpoints.asked) == before


def test_judged_replies_are_not_compared_by_exact_match_and_their_baselines_keep_to_them(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    path = tmp_path / "replies.jsonl"

    def record(right: bool) -> None:
        rows = [
            {"id": f"t{n}", "dataset": "things", "question": f"what colour is thing {n} ?", "model": model,
             "response": "it may be red", "correct": right and model == "BingChat"}
            for n in range(30) for model in ("GPT-3.5", "BingChat")
        ]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    record(right=True)
    assignment = chat(endpoints, tmp_path, 8, baselines=("alone",))
    served = ("candidates.serve=recorded", f"candidates.replies={path}")
    of_data = tuple(each for each in assignment.overrides if each.startswith("data."))
    assignment = dataclasses.replace(assignment, overrides=(*served, *of_data))
    out, _ = run(assignment)
    found = {name: (row["measure"], row["em_all"]) for name, row in numbers(out).items()}
    assert found == {  # the policy repeats "red", which every fourth thing is
        "policy": ("exact match", 0.25), "alone:GPT-3.5": ("judged", 0.0), "alone:BingChat": ("judged", 1.0),
    }  # fmt: skip
    # The file tells no accepted answers, so that the policy and the replies have no measure in common.
    assert json.loads((out / "evaluation.json").read_text())["against"] == {}
    record(right=False)
    with pytest.raises(RunFolderError, match=r"baselines of another making \(replies was "):
        run(assignment)


def test_a_spent_cap_ends_it_and_without_the_cap_it_goes_on(endpoints: Endpoints, tmp_path: Path) -> None:
    assignment = chat(endpoints, tmp_path, concurrency=1)
    capped = (*assignment.overrides, "candidates.pool.cap_usd_per_run=0.0012")
    with pytest.raises(BudgetSpent, match=r"cap_usd_per_run=0\.0012.*the same command goes on"):
        run(dataclasses.replace(assignment, overrides=capped))
    assert 0 < len(lines(tmp_path / "out")) < 10
    out, _ = run(assignment)
    check_unique(out)
    assert endpoints.asked["alpha"] + endpoints.asked["beta"] == len(lines(out)) == 10


def test_candidates_that_fail_are_no_answers_and_are_asked_again(endpoints: Endpoints, tmp_path: Path) -> None:
    assignment = chat(endpoints, tmp_path, 6)
    endpoints.broken = {"beta"}
    out, _ = run(assignment)
    row = numbers(out)["policy"]
    assert row["lost"] == 6 - row["questions"] > 0
    assert "failures.jsonl" in (out / "table.md").read_text()
    endpoints.broken = set()
    out, _ = run(assignment)
    check_unique(out)
    assert (numbers(out)["policy"]["questions"], numbers(out)["policy"]["lost"]) == (6, 0)
    endpoints.broken = {"alpha", "beta"}
    with pytest.raises(EvaluateError, match=r"8 episodes in a row failed, the last of question .t.*: a call to"):
        run(chat(endpoints, tmp_path, 12, out=tmp_path / "broken"))


def test_what_the_policys_model_does_not_take_it_has_got_wrong(endpoints: Endpoints, tmp_path: Path) -> None:
    endpoints.not_taken = {"thing 0", "thing 3"}
    out, _ = run(chat(endpoints, tmp_path, 10, concurrency=1))
    found = {row["question"]: row for row in lines(out)}
    assert {name for name, row in found.items() if row["stop"] == "not_taken"} == {"t0", "t3"}
    assert all(found[name]["em"] == found[name]["cost_usd"] == 0 for name in ("t0", "t3"))
    row = numbers(out)["policy"]
    assert (row["questions"], row["lost"]) == (10, 0)
    assert "against the rules" in (out / "failures.jsonl").read_text()
    before = dict(endpoints.asked)
    run(chat(endpoints, tmp_path, 10))
    assert dict(endpoints.asked) == before

    endpoints.not_taken = {f"thing {n}" for n in range(20)}
    with pytest.raises(EvaluateError, match=r"8 episodes in a row failed, .*against the rules"):
        run(chat(endpoints, tmp_path, 10, out=tmp_path / "none"))
    assert not (tmp_path / "none" / "items.jsonl").exists()  # nothing of it is believed
    out, _ = run(chat(endpoints, tmp_path, 3, out=tmp_path / "three"))
    assert (numbers(out)["policy"]["questions"], numbers(out)["policy"]["em_all"]) == (3, 0)


def test_candidates_that_are_not_there_are_told_at_once(endpoints: Endpoints, tmp_path: Path) -> None:
    assignment = chat(endpoints, tmp_path)
    write_cards(tmp_path / "cards.yaml", "http://127.0.0.1:9/v1")
    with pytest.raises(PoolError, match=r"127\.0\.0\.1:9"):
        run(assignment)
    assert not endpoints.asked


def test_questions_whose_hops_nobody_knows_are_counted(endpoints: Endpoints, tmp_path: Path) -> None:
    known = write_questions(tmp_path / "nq.jsonl", range(200, 203), "nq")
    assignment = chat(endpoints, tmp_path, 5)
    out, _ = run(dataclasses.replace(assignment, datasets=(*assignment.datasets, known)))
    [row] = numbers(out).values()
    assert {hops: part["questions"] for hops, part in row["by_hops"].items()} == {"1": 3}
    assert row["questions"] == 8
    note = "Note: 5 of 8 questions have no known hop count and are in no row by hops: things 5\n"
    assert note in (out / "table.md").read_text()
    out, _ = run(dataclasses.replace(assignment, datasets=(known,), out=tmp_path / "known"))
    assert "hop count" not in (out / "table.md").read_text()


def test_one_question(endpoints: Endpoints, tmp_path: Path) -> None:
    out, _ = run(chat(endpoints, tmp_path, 1))
    assert numbers(out)["policy"]["em"]["low"] is None
    assert "nan" not in (out / "table.md").read_text()


def test_another_evaluation_does_not_go_on_in_a_folder(tmp_path: Path) -> None:
    first = Assignment("world", limit=5, baselines=("random",), out=tmp_path)
    run(first)
    with pytest.raises(
        RunFolderError, match=r"another evaluation \(protocol was 'paper', is 'full'; questions was '5, "
    ):
        run(dataclasses.replace(first, protocol="full"))
    (tmp_path / "items.jsonl").write_text("{}\n" + (tmp_path / "items.jsonl").read_text())
    with pytest.raises(RunFolderError, match=r"items.jsonl, line 1: no item of an evaluation"):
        run(first)


@pytest.mark.parametrize(
    ("assignment", "error", "message"),
    [
        (Assignment("http://127.0.0.1:1/v1"), EvaluateError, "needs --model"),
        (Assignment("http://me:secret@127.0.0.1:1/v1", model="m"), EvaluateError, "URL must hold no credentials"),
        (Assignment("world", model="x"), EvaluateError, "--model x goes with a URL"),
        (Assignment("world", samples=3), EvaluateError, "--samples with world: no policy plays there"),
        (Assignment("world", baselines=("none",)), EvaluateError, "leaves no row"),
        (Assignment("world", baselines=("knnn",)), RouterError, "baseline 'knnn': not found"),
        (Assignment("world", datasets=("nosuchset",)), QuestionError, "'nosuchset': unknown"),
        (Assignment("world", datasets=("world:train",), limit=9, baselines=("random",)), ReplyTableError, "trained on"),
        (Assignment("world", limit=3, baselines=("random",), against="knn"), EvaluateError, "--against knn: no such"),
        (Assignment("http://h/v1", model="m", api_key_env="NO_SUCH_KEY_HERE"), EvaluateError, "not set"),
        (Assignment("runs/no-such-run"), RunFolderError, "no such folder"),
    ],
)
def test_what_can_not_be_done_is_refused(
    assignment: Assignment, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(dataclasses.replace(assignment, out=tmp_path / "out"))


def test_baselines_that_are_all_left_out_are_no_table(tmp_path: Path) -> None:
    replies = [
        {"id": f"q{n}", "question": f"who is {n} ?", "model": model, "response": "x", "correct": n % 2 == 0}
        for n in range(20) for model in ("ChatGPT-4", "BingChat")
    ]  # fmt: skip
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in replies), encoding="utf-8")
    with pytest.raises(EvaluateError, match=r"no row is left to show: largest: .*tell no size"):
        run(Assignment(f"recorded:{path}", baselines=("largest",), out=tmp_path / "out"))


def test_replies_that_were_corrected_are_another_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    asked = Assignment(f"recorded:{path}", baselines=("alone",), out=tmp_path / "out")
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
        run(Assignment("http://127.0.0.1:1/v1", model="m", datasets=(asked,), out=tmp_path / "out"))


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
