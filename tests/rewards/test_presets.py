"""The presets: what is paid for, what is not, and that order and replies change nothing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.cost import cost_reward
from rewards.form import violations
from rewards.grammar import parse_turn
from rewards.outcome import exact_match, normalise_answer, token_f1
from rewards.presets import RewardBreakdown, judge
from rewards.settings import RewardSettings
from rewards.transcript import CallStatus, RouteCall, StopReason, Transcript, Turn


def turn(text: str, call: RouteCall | None = None) -> Turn:
    blocks, faults = parse_turn(text)
    return Turn(text, blocks, call, faults)


def asked(reply: str = "it is lanu .", cost: float = 0.001, status: CallStatus = CallStatus.OK) -> RouteCall:
    return RouteCall("zumo", "geologist", "mineral of sena", status, reply=reply, cost_usd=cost)


def episode(answer: str = "lanu", reply: str = "it is lanu .", cost: float = 0.001) -> Transcript:
    turns = (
        turn("<think> geology </think> <search> zumo : mineral of sena </search>", asked(reply, cost)),
        turn(f"<think> so </think> <answer> {answer} </answer>"),
    )
    return Transcript(turns, StopReason.ANSWERED)


def reward(transcript: Transcript, alpha: float = 0.5, **changes: object) -> RewardBreakdown:
    settings = dataclasses.asdict(RewardSettings(alpha=alpha, cost_scale_usd=0.004)) | changes
    return judge(transcript, ["lanu"], **settings)  # type: ignore[arg-type]


def test_default_pays_for_low_cost_only_where_the_answer_is_right() -> None:
    assert reward(episode()).total == pytest.approx(0.5 + 0.5 * 0.5)  # 1 - sqrt(0.001 / 0.004) is a half
    assert reward(episode("other", cost=0.0)).total == 0.0


def test_paper_pays_for_low_cost_whatever_the_answer() -> None:
    assert reward(episode("other"), preset="paper").total == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<answer> lanu </answer>", "no_think"),
        ("<think> ... </think> <answer> lanu </answer>", "empty_think"),
        ("<think> a </think>", "no_answer"),
        ("<think> a </think> <answer> </answer>", "empty_answer"),
        ("<think> a </think> <information> x </information> <answer> lanu </answer>", "forged_information"),
        ("<think> a </think> <search> no colon </search>", "bad_route"),
        ("<think> a <think> </think> <answer> lanu </answer>", "nested_tag"),
        ("<think> a </think> <answer> lanu", "unclosed"),
    ],
)
def test_a_broken_rule_is_named_and_costs_everything(text: str, rule: str) -> None:
    transcript = Transcript((turn(text),), StopReason.ANSWERED)
    assert rule in violations(transcript)
    assert reward(transcript).total == -1.0


def test_text_between_blocks_breaks_no_rule() -> None:
    transcript = Transcript((turn("Sure: <think> a </think> then <answer> lanu </answer> !"),), StopReason.ANSWERED)
    assert transcript.turns[0].faults == ("text_outside",)
    assert violations(transcript) == ()
    assert reward(transcript).total > 0


def test_the_form_is_judged_by_the_turns_own_faults_and_no_text_is_parsed_again() -> None:
    blocks, _ = parse_turn("<think> a </think> <answer> lanu </answer>")
    faulty = Turn("", blocks, faults=("nested_tag",))
    assert violations(Transcript((faulty,), StopReason.ANSWERED)) == ("nested_tag",)
    sound = Turn("<think> a <think> </answer>", blocks)
    assert violations(Transcript((sound,), StopReason.ANSWERED)) == ()


def test_naming_nobody_is_the_policys_fault_and_a_refusal_is_not() -> None:
    route = "<think> a </think> <search> nobody : x </search>"
    answer = turn("<think> so </think> <answer> lanu </answer>")
    invalid = Transcript((turn(route, asked(status=CallStatus.INVALID_ROUTE)), answer), StopReason.ANSWERED)
    refused = Transcript((turn(route, asked(status=CallStatus.REFUSED)), answer), StopReason.ANSWERED)
    assert violations(invalid) == ("unknown_model",)
    assert violations(refused) == ()


@given(st.text())
def test_no_reply_changes_the_reward(reply: str) -> None:
    assert reward(episode(reply=reply)) == reward(episode())


@given(st.lists(st.tuples(st.sampled_from(["lanu", "other"]), st.floats(0, 0.01)), min_size=1), st.randoms())
def test_rewards_do_not_depend_on_order(episodes: list[tuple[str, float]], rng: object) -> None:
    alone = {e: reward(episode(e[0], cost=e[1])).total for e in episodes}
    rng.shuffle(episodes)  # type: ignore[attr-defined]
    assert [reward(episode(a, cost=c)).total for a, c in episodes] == [alone[e] for e in episodes]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1e-6, 1))
def test_the_cost_reward_falls_with_cost_and_stays_in_its_bounds(a: float, b: float, scale: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= cost_reward(high, scale) <= cost_reward(low, scale) <= 1


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_an_impossible_cost_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="cost_usd"):
        cost_reward(cost, 1.0)


def test_a_question_without_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="accepted answer"):
        judge(episode(), [], preset="default", alpha=0.0, metric="em", cost_scale_usd=1.0)


def test_a_void_transcript_is_refused() -> None:
    void = Transcript((turn("<think> a </think> <answer> lanu </answer>"),), StopReason.VOID)
    with pytest.raises(ValueError, match="void"):
        reward(void)


def test_settings_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        RewardSettings(alpha=1.5)
    with pytest.raises(ValueError, match="cost_scale_usd=0"):
        RewardSettings(cost_scale_usd=0)


def test_outcome_follows_squad() -> None:
    assert normalise_answer("The  Cat, an owl!") == "cat owl"
    assert normalise_answer("the-cat") == "thecat"
    assert exact_match("A.", [""]) == 1.0
    assert token_f1("blue whale", ["the whale"]) == pytest.approx(2 / 3)
    assert token_f1("yes", ["yes it is"]) == 0.0
    assert token_f1("", [""]) == 0.0


@given(st.text(), st.lists(st.text(), min_size=1, max_size=4))
def test_outcomes_are_shares_and_an_exact_match_of_words_has_full_f1(prediction: str, golds: list[str]) -> None:
    em, f1 = exact_match(prediction, golds), token_f1(prediction, golds)
    assert 0 <= f1 <= 1
    if em and normalise_answer(prediction):
        assert f1 == 1.0
