"""The public surface: its names and signatures are pinned here, and importing it stays light."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import router_r1

# What `docs/public_surface.md` promises. A name or an argument that goes or changes its meaning needs a new version.
TYPES = {
    "Ask": "(question, sampling, seed, max_tokens)",
    "CallRequest": "(model, requested, query, question_id, max_tokens, seed, step, episode, turn, index)",
    "CandidateCaller": "(cards, settings, *, ledger_url, run, funds, name)",
    "EvaluationOptions": (
        "(target, datasets, protocol, samples, limit, budgets_usd, baselines, lambdas, embedding, seed, out, recipe, "
        "overrides, model, api_key_env, price_in, price_out, timeout_s, engines, concurrency, ask_everyone, "
        "fit_questions, max_usd, yes, pools, against, published, resamples)"
    ),
    "Judge": "(settings)",
    "Question": "(id, dataset, text, answers)",
    "Responder": "(source, cards, caller)",
    "RewardBreakdown": "(format, outcome, cost, total, em, f1, violations, answer, routes, components)",
    "RewardSettings": (
        "(preset, alpha, metric, cost_by, cost_scale_usd, length_coef, switch_coef, budget, budget_weight)"
    ),
    "RouteCall": (
        "(requested, model, query, status, reply, prompt_tokens, completion_tokens, cost_usd, latency_s, attempts, "
        "error, cost_estimated, raw_cost, voids, final)"
    ),
    "Trajectory": (
        "(question, group, seed, token_ids, sampled, logprobs, versions, transcript, prompt, wall_s, budget_usd, "
        "reward)"
    ),
    "Transcript": "(turns, stop_reason)",
}
FUNCTIONS = {
    "evaluate": "(options, say, told)",
    "find_pool": "(spec)",
    "load_cards": "(path)",
    "load_config": "(recipe, overrides)",
    "load_questions": "(source, limit)",
    "open_policy": "(policy, recipe, overrides)",
    "read_transcript": "(text, resolve, *, searches_per_turn)",
    "recipe_names": "()",
    "train": "(recipe, overrides, *, resume, force)",
}
METHODS = {
    "CandidateCaller.ask": "(self, request)",
    "CandidateCaller.check": "(self)",
    "CandidateCaller.close": "(self)",
    "Judge.judge": "(self, transcript, answers, *, budget_usd, group_usd, cost_usd, raw_cost, question)",
    "Judge.judge_text": "(self, text, answers, raw_cost, *, question)",
    "Responder.respond": "(self, ask, observer)",
}
SETTINGS = ("Config", "ModelCard", "PoolSettings")  # their fields are told by `train --keys` and in a card's errors
VALUES = {
    "CallStatus": ["ok", "invalid_route", "refused", "timeout", "provider_error", "over_budget"],
    "StopReason": ["answered", "no_action", "out_of_rounds", "out_of_tokens", "void"],
}
ERRORS = ("CardError", "ConfigError", "QuestionError")


def shown(signature: inspect.Signature) -> str:
    """The signature's names without types and defaults."""
    bare = [each.replace(annotation=each.empty, default=each.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(bare))


def test_every_name_is_pinned() -> None:
    assert set(router_r1.__all__) == {*TYPES, *FUNCTIONS, *SETTINGS, *VALUES, *ERRORS}
    assert set(router_r1.__all__) <= set(dir(router_r1))


@pytest.mark.parametrize(("name", "expected"), [*TYPES.items(), *FUNCTIONS.items()])
def test_signatures(name: str, expected: str) -> None:
    assert shown(inspect.signature(getattr(router_r1, name))) == expected


@pytest.mark.parametrize(("name", "expected"), METHODS.items())
def test_methods(name: str, expected: str) -> None:
    owner, method = name.split(".")
    assert shown(inspect.signature(getattr(getattr(router_r1, owner), method))) == expected


@pytest.mark.parametrize(("name", "expected"), VALUES.items())
def test_statuses(name: str, expected: list[str]) -> None:
    assert [each.value for each in getattr(router_r1, name)] == expected


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_value_errors(name: str) -> None:
    assert issubclass(getattr(router_r1, name), ValueError)


def test_what_the_type_checker_sees_is_what_is_imported_late() -> None:
    for name, (module, original) in router_r1._LATE.items():
        found = getattr(router_r1, name)
        assert (found.__module__, found.__qualname__) == (module, original)


def test_a_name_that_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        router_r1.trane  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "vllm", "transformers", "deepspeed", "aiohttp", "sqlalchemy", "scipy", "sklearn", "typer")
    code = f"import json, sys, router_r1; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == []


def test_every_room_ships_its_types() -> None:
    root = Path(router_r1.__file__).parent
    for room in ("rewards", "actors", "learner", "benchmarks", "cluster"):
        assert (root / room / "py.typed").is_file()


def test_configuration_and_questions_and_cards_are_loaded(tmp_path: Path) -> None:
    assert router_r1.load_config("quickstart", ["run.steps=3"]).run.steps == 3
    with pytest.raises(router_r1.ConfigError, match=r"did you mean 'run\.steps'"):
        router_r1.train("quickstart", ["run.stepz=3"])
    assert len(router_r1.load_questions("world:heldout", limit=4)) == 4
    file = tmp_path / "q.csv"
    file.write_text("query,gold\nwho ?,Ada\n", encoding="utf-8")
    [question] = router_r1.load_questions(f"{file}:id=#:question=query:answers=gold")
    assert question == router_r1.Question("q-1", "q", "who ?", ("Ada",))
    assert len(router_r1.load_cards(router_r1.find_pool(Path("router_r1_six")))) == 6


def test_a_transcript_is_judged() -> None:
    text = (
        "<think> who knows ? </think><search> Qwen2.5-7B-Instruct: who wrote it ? </search>"
        "<information> Ada did. </information><think> so Ada </think><answer> Ada </answer>"
    )
    transcript = router_r1.read_transcript(text)
    reward = router_r1.Judge(router_r1.RewardSettings(alpha=0.5)).judge(transcript, ["Ada"], cost_usd=0.0)
    assert (reward.total, reward.em, reward.answer, reward.violations) == (1.0, 1.0, "Ada", ())
    assert [call.requested for call in transcript.calls] == ["Qwen2.5-7B-Instruct"]
