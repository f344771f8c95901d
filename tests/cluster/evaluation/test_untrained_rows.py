"""Untrained rows of `router-r1 evaluate`: the model, its prompts, and that no call is made twice."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import Endpoints, Words, colour, write_cards, write_questions
from made_up import write_checkpoint

from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.baselines.router import RouterError
from benchmarks.baselines.rows import UNTRAINED
from benchmarks.evaluation.protocol import passes
from benchmarks.world.coldstart import CHECKPOINT
from benchmarks.world.experts import experts
from cluster.config.loading import load_config
from cluster.evaluation.episodes import EvaluationEpisode, episodes_of
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import EvaluateError, EvaluationOptions
from cluster.evaluation.target import Target
from cluster.evaluation.untrained_rows import UntrainedRows, plan_untrained
from cluster.players import players as evaluation_policy
from cluster.players.responder import PolicySource
from cluster.runs.files import RunFolderError

pytestmark = pytest.mark.thorough

CARDS = tuple(expert.card("http://127.0.0.1:1/v1") for expert in experts())
QUESTIONS = [Question(f"q{number}", "world", f"what is the comet of {number} ?", ("sena",)) for number in range(3)]


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    monkeypatch.setattr(evaluation_policy, "load_tokenizer", lambda _: Words())  # importing transformers takes seconds
    made = Endpoints()
    yield made
    made.stop()


def chat(endpoints: Endpoints, tmp_path: Path, count: int = 8, **changes: Any) -> EvaluationOptions:
    """An evaluation of `sage` over both candidates, with all three rows."""
    asked = write_questions(tmp_path / "asked.jsonl", range(count))
    return EvaluationOptions(
        **{
            "target": endpoints.url,
            "model": "sage",
            "datasets": (asked,),
            "baselines": UNTRAINED,
            "out": tmp_path / "out",
            "concurrency": 1,
            "price_in": 1.0,
            "price_out": 10.0,
            "overrides": (
                "candidates.serve=none",
                f"candidates.pool.cards={write_cards(tmp_path / 'cards.yaml', endpoints.url)}",
                f"data.train={asked}",
                f"data.eval={asked}",
                "episode.rename_cards=false",
            ),
            "resamples": 199,
        }
        | changes
    )


def run(options: EvaluationOptions) -> tuple[Path, list[str]]:
    said: list[str] = []
    return evaluate(options, said.append, lambda *_: None), said


def numbers(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "evaluation.json").read_text()))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def of_row(folder: Path, row: str) -> list[dict[str, Any]]:
    return [item for item in lines(folder) if item["row"] == row]


def test_an_endpoint_plays_the_rows_and_only_prompt_only_knows_of_candidates(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    options = chat(endpoints, tmp_path)
    out, said = run(dataclasses.replace(options, baselines=("none",)))
    policys = list(endpoints.openings)
    asked_policy = Counter(endpoints.asked)
    identity = (out / "asked.json").read_bytes()
    _, said = run(options)
    assert "8 of 32 episodes were played before" in said
    assert (out / "asked.json").read_bytes() == identity
    direct, cot, prompt_only = (endpoints.openings[start : start + 8] for start in (8, 16, 24))
    assert len(endpoints.openings) == 32
    for number, (at_once, by_steps) in enumerate(zip(direct, cot, strict=True)):
        for text in (at_once, by_steps):
            assert text.endswith(f"Question: what colour is thing {number} ?")
            assert "<answer>" in text
            assert not any(word in text for word in ("alpha", "beta", "<search>", "<information>", "model"))
        assert "step by step" in by_steps
        assert "step by step" not in at_once
    assert prompt_only == policys
    for text in prompt_only:
        assert "- alpha: a model 70b" in text
        assert "- beta: a model 7b" in text
        assert "<search>" in text

    found = {row["name"]: row for row in numbers(out)["rows"]}
    assert list(found) == ["policy", *UNTRAINED]
    for name in ("direct", "cot"):
        items = of_row(out, name)
        assert [item["em"] for item in items] == [float(colour(f"thing {n}") == "red") for n in range(8)]
        assert {(item["answer"], item["stop"]) for item in items} == {("red", "answered")}
        assert found[name]["calls"] == found[name]["usd_per_1k"] == 0
        assert found[name]["policy_usd_per_1k"] == pytest.approx(1000 * (100 * 1 + 10 * 10) / 1e6)
    both = [[(item["question"], item["em"], item["calls"]) for item in of_row(out, row)] for row in UNTRAINED[2:]]
    assert both == [[(item["question"], item["em"], item["calls"]) for item in of_row(out, "policy")]]
    assert found["prompt_only"]["policy_usd_per_1k"] == pytest.approx(1000 * 2 * (100 * 1 + 10 * 10) / 1e6)
    candidates = Counter({name: asked_policy[name] for name in ("alpha", "beta")})
    assert {name: endpoints.asked[name] for name in candidates} == {n: 2 * c for n, c in candidates.items()}
    assert numbers(out)["spent_usd"] == pytest.approx(sum(item["cost_usd"] for item in lines(out)))
    assert {row["reference"] for row in numbers(out)["against"].values()} == {"policy"}
    assert set(numbers(out)["against"]) == set(UNTRAINED)
    assert all(row["em"]["low"] is not None for row in found.values())
    assert f"direct, cot, prompt_only: played by sage at {endpoints.url}, as the policy is" in numbers(out)["notes"]

    asked, table = Counter(endpoints.asked), (out / "table.md").read_text()
    run(options)
    assert endpoints.asked == asked
    assert (out / "table.md").read_text() == table


def test_greedy_and_sampled_passes_are_rows_of_their_own(endpoints: Endpoints, tmp_path: Path) -> None:
    out, _ = run(chat(endpoints, tmp_path, 3, baselines=("cot",), protocol="full", samples=2))
    found = {row["name"]: (row["questions"], row["samples"]) for row in numbers(out)["rows"]}
    assert found == {"policy": (3, 1), "policy, sampled": (3, 2), "cot": (3, 1), "cot, sampled": (3, 2)}


_KILLED = """
import os, pickle, signal, sys
from cluster.players import players as evaluation_policy
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.folder import EvaluationFolder
from endpoints import Words
evaluation_policy.load_tokenizer = lambda _: Words()
add = EvaluationFolder.add
def add_and_die(self, item):
    add(self, item)
    if len(self.items) == 21:
        os.kill(os.getpid(), signal.SIGKILL)
EvaluationFolder.add = add_and_die
evaluate(pickle.load(sys.stdin.buffer), print, lambda *_: None)
"""


def test_killed_among_them_it_goes_on_and_repeats_no_call(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path, 6)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        input=pickle.dumps(options),
        timeout=120,
        check=False,
    )
    out = tmp_path / "out"
    assert done.returncode == -signal.SIGKILL
    assert not (out / "table.md").exists()
    assert Counter(item["row"] for item in lines(out)) == {"policy": 6, "direct": 6, "cot": 6, "prompt_only": 3}
    run(options)
    assert Counter(item["row"] for item in lines(out)) == dict.fromkeys(("policy", *UNTRAINED), 6)
    assert endpoints.asked["alpha"] + endpoints.asked["beta"] == 6 + 6
    assert endpoints.asked["sage"] == 6 * (2 + 1 + 1 + 2)
    whole, _ = run(dataclasses.replace(options, out=tmp_path / "whole"))
    scores = [{row["name"]: row["em_all"] for row in numbers(folder)["rows"]} for folder in (out, whole)]
    assert scores[0] == scores[1]


def test_all_leaves_out_what_would_be_the_policys_row_again(endpoints: Endpoints, tmp_path: Path) -> None:
    out, said = run(chat(endpoints, tmp_path, 3, baselines=("all",)))
    assert [row["name"] for row in numbers(out)["rows"]] == ["policy", "direct", "cot"]
    reason = (
        "prompt_only was left out: the same model plays the policy's row by the same prompt; name it in --baselines"
    )
    assert any(f"note: {reason}" in each for each in said)
    assert reason in (out / "table.md").read_text()
    assert endpoints.asked["alpha"] + endpoints.asked["beta"] == 3


def test_unknown_names_are_refused_with_those_that_there_are(endpoints: Endpoints, tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"baseline 'promptonly': not found; there are direct, cot, prompt_only, al"):
        run(chat(endpoints, tmp_path, baselines=("direct", "promptonly")))
    assert not endpoints.asked


def test_tables_have_no_model_that_plays(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match=r"--baselines direct,cot with world leaves no row, because no model plays"):
        run(EvaluationOptions("world", limit=3, baselines=("direct", "cot"), out=tmp_path / "none"))
    out, _ = run(EvaluationOptions("world", limit=3, baselines=("random", "cot"), out=tmp_path / "out", resamples=199))
    assert [row["name"] for row in numbers(out)["rows"]] == ["random"]
    assert "cot left out: no model plays with world" in numbers(out)["notes"]


def trained(tmp_path: Path, recipe: str = "quickstart", *overrides: str) -> Target:
    """A policy that was trained from the recipe's checkpoint."""
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000004"
    write_checkpoint(checkpoint)
    config = load_config(recipe, overrides)
    run_folder = checkpoint.parent.parent
    source = PolicySource(checkpoint, config, "run/step_000004", 4, run_folder, run_folder / "ledger.sqlite")
    return Target(config, source.name, source=source)


def plan(
    target: Target, *names: str, asked_for: tuple[str, ...] | None = None, cards: tuple[ModelCard, ...] = CARDS
) -> UntrainedRows:
    planned = passes("paper", None)
    return plan_untrained(target, names, planned, QUESTIONS, cards, asked_for=names if asked_for is None else asked_for)


def prompts(target: Target, rows: UntrainedRows, row: str) -> list[str]:
    found = [each.request for each in rows.episodes if each.key[0] == row]
    return [request.prompt(target.config.episode) for request in found]


def test_what_a_checkpoint_was_trained_from_plays_in_the_form_that_it_can_read(tmp_path: Path) -> None:
    target = trained(tmp_path)
    rows = plan(target, *UNTRAINED)
    assert rows.player.source is not None
    assert rows.player.source.checkpoint.resolve() == CHECKPOINT.resolve()
    assert rows.player.config == target.config
    assert rows.rows == UNTRAINED
    texts = [question.text for question in QUESTIONS]
    assert prompts(target, rows, "direct") == prompts(target, rows, "cot") == texts
    for prompt, text in zip(prompts(target, rows, "prompt_only"), texts, strict=True):
        *cards, question = prompt.split("\n")
        assert (len(cards), question) == (len(CARDS), text)
    assert f"played by {CHECKPOINT.resolve()}, the policy.checkpoint of the configuration" in rows.notes[0]
    assert rows.notes[1].startswith("direct, cot: the bare question, because the policy of episode.prompt=compact")


def test_where_prompts_are_read_each_row_has_its_own(tmp_path: Path) -> None:
    target = trained(tmp_path, "quickstart", "episode.prompt=instruct", "episode.budgets_usd=[0.01]")
    rows = plan(target, *UNTRAINED)
    read = {row: prompts(target, rows, row)[0] for row in UNTRAINED}
    assert len(set(read.values())) == 3
    for row in ("direct", "cot"):
        assert "budget" not in read[row]
        assert not any(card.descriptor in read[row] for card in CARDS)
    assert "Your budget" in read["prompt_only"]
    assert all(card.descriptor in read["prompt_only"] for card in CARDS)
    assert len(rows.notes) == 1


def places(waiting: tuple[EvaluationEpisode, ...]) -> list[str]:
    return [each.request.episode for each in waiting]


def test_every_episode_has_a_place_of_its_own_in_the_ledger(tmp_path: Path) -> None:
    target = trained(tmp_path)
    rows = plan(target, *UNTRAINED)
    policys = episodes_of(target.config, passes("paper", None), QUESTIONS, CARDS)
    all_ = places(rows.episodes) + places(tuple(policys))
    assert len(set(all_)) == len(all_) == 4 * len(QUESTIONS)


def test_by_all_calls_that_cost_money_are_not_made(tmp_path: Path) -> None:
    free, paid = trained(tmp_path), trained(tmp_path / "paid", "router_r1_qwen3b", "policy.checkpoint=world")
    assert plan(free, *UNTRAINED, asked_for=("all",)).rows == UNTRAINED
    rows = plan(paid, *UNTRAINED, asked_for=("all",))
    assert rows.rows == ("direct", "cot")
    assert rows.notes[0].startswith("prompt_only was left out: its calls may cost as much as the policy's; name it")
    assert plan(paid, *UNTRAINED).rows == UNTRAINED


def test_the_policy_is_its_own_player_where_nothing_was_trained(tmp_path: Path) -> None:
    target = trained(tmp_path)
    assert target.source is not None
    untrained = dataclasses.replace(target, source=dataclasses.replace(target.source, checkpoint=CHECKPOINT))
    rows = plan(untrained, *UNTRAINED)
    assert rows.player is untrained
    assert rows.rows == UNTRAINED
    assert plan(untrained, *UNTRAINED, asked_for=("all",)).rows == ("direct", "cot")


def test_weights_that_are_not_to_be_had_are_told(tmp_path: Path) -> None:
    rows = plan(trained(tmp_path, "quickstart", f"policy.checkpoint={tmp_path / 'gone'}"), "direct", "cot")
    assert (rows.rows, rows.episodes) == ((), ())
    assert "direct, cot left out: the weights before training can't be found (policy.checkpoint=" in rows.notes[0]


def test_another_model_does_not_go_on_with_them(tmp_path: Path) -> None:
    target = trained(tmp_path)
    folder = EvaluationFolder(tmp_path / "out", {})
    plan(target).keep_to_player(folder)
    assert not (folder.path / "untrained.json").exists()
    rows = plan(target, "cot")
    for _ in range(2):
        rows.keep_to_player(folder)
    other = dataclasses.replace(rows, player=target)
    with pytest.raises(RunFolderError, match=r"holds direct, cot, prompt_only as .* plays them, but now .*step_0"):
        other.keep_to_player(folder)
    (folder.path / "untrained.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        rows.keep_to_player(folder)
    folder.close()
