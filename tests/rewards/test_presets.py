"""The presets: what they pay for and what they don't, and that order and replies change nothing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.cost import cost_reward, derived_cost_scale_usd
from rewards.form import paper_violations, violations
from rewards.grammar import parse_turn
from rewards.outcome import exact_match, normalise_answer, token_f1
from rewards.presets import Judge, RewardBreakdown
from rewards.settings import RewardSettings
from rewards.transcript import CallStatus, RouteCall, StopReason, Transcript, Turn


def turn(text: str, call: RouteCall | None = None) -> Turn:
    blocks, faults = parse_turn(text)
    return Turn(text, blocks, (call,) if call else (), faults)


def asked(reply: str = "it is lanu .", cost: float = 0.001, status: CallStatus = CallStatus.OK) -> RouteCall:
    return RouteCall("zumo", "geologist", "mineral of sena", status, reply=reply, cost_usd=cost)


def episode(answer: str = "lanu", reply: str = "it is lanu .", cost: float = 0.001) -> Transcript:
    turns = (
        turn("<think> geology </think> <search> zumo : mineral of sena </search>", asked(reply, cost)),
        turn(f"<think> so </think> <answer> {answer} </answer>"),
    )
    return Transcript(turns, StopReason.ANSWERED)


def reward(transcript: Transcript, alpha: float = 0.5, **changes: object) -> RewardBreakdown:
    settings = dataclasses.replace(RewardSettings(alpha=alpha, cost_scale_usd=0.004), **changes)  # type: ignore[arg-type]
    return Judge(settings).judge(transcript, ["lanu"])


def test_default_pays_for_low_cost_only_where_the_answer_is_right() -> None:
    assert reward(episode()).total == pytest.approx(0.5 + 0.5 * 0.5)  # the cost reward is 1 - sqrt(0.001 / 0.004)
    assert reward(episode("other", cost=0.0)).total == 0.0


def test_paper_pays_for_low_cost_whatever_the_answer() -> None:
    assert reward(episode("other"), preset="paper").total == pytest.approx(0.25)  # the first cost in a window earns 0.5


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<answer> lanu </answer>", "no_think"),
        ("<think> ... </think> <answer> lanu </answer>", "empty_think"),
        ("<think> ...\r\n… </think> <answer> lanu </answer>", "empty_think"),
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


def test_default_takes_a_colon_in_a_query_and_a_name_in_it() -> None:
    route = turn("<think> a </think> <search> zumo : is zumo right at 10:30 ? </search>", asked())
    transcript = Transcript((route, turn("<think> b </think> <answer> lanu </answer>")), StopReason.ANSWERED)
    assert violations(transcript) == ()


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
    with pytest.raises(ValueError, match=r"question .q7.: .*accepted answer"):
        Judge(RewardSettings()).judge(episode(), [], question="q7")
    with pytest.raises(ValueError, match="list of texts"):
        Judge(RewardSettings()).judge(episode(), "lanu")


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


def with_calls(*models: str | None, usd: float = 0.001, raw: float = 0.0) -> Transcript:
    turns = []
    for model in models:
        status = CallStatus.OK if model else CallStatus.INVALID_ROUTE
        call = RouteCall("zumo", model, "q", status, cost_usd=usd, raw_cost=raw)
        turns.append(turn("<think> a </think> <search> zumo : q </search>", call))
    turns.append(turn("<think> so </think> <answer> lanu </answer>"))
    return Transcript(tuple(turns), StopReason.ANSWERED)


def test_components_are_the_addends_of_the_total() -> None:
    found = reward(episode(), length_coef=0.1)
    assert found.components == pytest.approx({"format": 0.0, "outcome": 0.5, "cost": 0.25, "length": -0.1})
    assert found.total == pytest.approx(0.65)
    broken = reward(Transcript((turn("lanu"),), StopReason.NO_ACTION), length_coef=0.1)
    assert broken.components == {"format": -1.0, "outcome": 0.0, "cost": 0.0, "length": 0.0}


def test_length_and_switches_are_charged_where_asked_for() -> None:
    settings = RewardSettings(length_coef=0.1, switch_coef=0.01)
    found = Judge(settings).judge(with_calls("a", "b", "b", "a"), ["lanu"])
    assert found.components["length"] == pytest.approx(-0.4)
    assert found.components["switch"] == pytest.approx(-0.02)


def test_a_budget_is_read_from_the_episode() -> None:
    def total(rule: str, budget: float | None, cost: float) -> float:
        judge = Judge(RewardSettings(budget=rule))  # type: ignore[arg-type]
        return judge.judge(with_calls("a", usd=cost), ["lanu"], budget_usd=budget).total

    assert total("none", 0.001, 0.002) == total("hard", None, 0.002) == total("hard", 0.002, 0.002) == 1.0
    assert total("hard", 0.001, 0.0011) == total("soft", 0.001, 0.003) == total("soft", 0.0, 0.001) == 0.0
    assert total("soft", 0.001, 0.0015) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="budget_usd=-1"):
        total("hard", -1.0, 0.001)


def test_a_share_of_the_outcome_hangs_on_the_budget() -> None:
    def total(rule: str, cost: float) -> float:
        judge = Judge(RewardSettings(budget=rule, budget_weight=0.2))  # type: ignore[arg-type]
        return judge.judge(with_calls("a", usd=cost), ["lanu"], budget_usd=0.001).total

    assert total("hard", 0.001) == total("none", 0.002) == 1.0
    assert total("hard", 0.0011) == pytest.approx(0.8)
    assert total("soft", 0.0015) == pytest.approx(0.9)
    for wrong in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"budget_weight=.*must lie in"):
            RewardSettings(budget="hard", budget_weight=wrong)


def test_cost_by_rank_looks_at_the_group_alone() -> None:
    judge = Judge(RewardSettings(alpha=1.0, cost_by="rank"))
    group = [with_calls("a", usd=usd) for usd in (0.002, 0.001, 0.002, 0.009)]

    def costs(episodes: list[Transcript]) -> list[float]:
        usd = [episode.cost_usd for episode in episodes]
        return [judge.judge(episode, ["lanu"], group_usd=usd).cost for episode in episodes]

    assert costs(group) == pytest.approx([0.5, 1.0, 0.5, 0.0])
    assert costs([group[0]] * 3) == [0.5] * 3
    assert judge.judge(group[0], ["lanu"]).cost == 0.5


def test_the_reference_pays_for_low_cost_only_where_the_answer_is_right() -> None:
    judge = Judge(RewardSettings(preset="reference", alpha=0.5))
    known = [dataclasses.replace(t, turns=named(t)) for t in (with_calls("a", raw=raw) for raw in (9.0, 1.0, 4.0))]
    assert [judge.judge(t, ["lanu"]).total for t in known] == pytest.approx([0.75, 1.0, 0.5 + 0.5 * judge_cost()])
    assert judge.judge(known[1], ["other"]).total == 0.0


def named(transcript: Transcript) -> tuple[Turn, ...]:
    """The transcript's turns with a candidate's name that the published code knows."""
    return tuple(dataclasses.replace(t, text=t.text.replace("zumo", "qwen")) for t in transcript.turns)


def judge_cost() -> float:
    """The cost reward of 4 after 9 and 1: of the square roots 1, 2 and 3 the 5th percentile is 1.1, the 95th 2.9."""
    return 1 - (2 - 1.1) / (2.9 - 1.1)


def test_the_window_is_shared_by_all_and_can_be_resumed() -> None:
    settings = RewardSettings(preset="paper", alpha=1.0)
    first, whole = Judge(settings), Judge(settings)
    episodes = [with_calls("a", raw=raw) for raw in (9.0, 1.0, 4.0)]
    expected = [whole.judge(t, ["other"]).total for t in episodes]
    begun = [first.judge(t, ["other"]).total for t in episodes[:2]]
    resumed = Judge(settings)
    resumed.restore(first.state())
    assert [*begun, resumed.judge(episodes[2], ["other"]).total] == expected


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Sure: <think> a </think> <answer> lanu </answer>", "think_not_first"),
        ("<think> a </think> <answer> lanu </answer> .", "answer_not_last"),
        ("<think> </think> <answer> lanu </answer>", "empty_think"),
        ("<think> a </think> <search> a: b </search> <answer> lanu </answer>", "unpaired_search"),
        ("<think> a </think> <answer> x </answer> <answer> lanu </answer>", "many_answers"),
        ("<think> a </think> <information> x </information> <answer> lanu </answer>", "forged_information"),
    ],
)
def test_the_papers_rules_are_named(text: str, rule: str) -> None:
    transcript = Transcript((turn(text),), StopReason.ANSWERED)
    assert rule in paper_violations(transcript)
    assert reward(transcript, preset="paper").total == -1.0


def test_what_only_the_published_code_minds_breaks_no_rule_of_the_paper() -> None:
    route = "<think> ... </think> text <search> zumo : is zumo your-query at 10:30 ? </search>"
    transcript = Transcript((turn(route, asked()), turn("<answer> lanu </answer>")), StopReason.ANSWERED)
    assert paper_violations(transcript) == ()


def test_the_published_presets_take_no_additions() -> None:
    additions = (
        {"cost_by": "rank"},
        {"length_coef": 0.1},
        {"switch_coef": 0.1},
        {"budget": "hard"},
        {"budget_weight": 0.5},
    )
    for preset in ("paper", "reference"):
        for addition in additions:
            with pytest.raises(ValueError, match=f"{next(iter(addition))}=.*preset={preset}"):
                RewardSettings(preset=preset, **addition)  # type: ignore[arg-type]


def test_the_derived_scale_is_the_most_that_an_episode_can_cost() -> None:
    prices = [(0.2, 0.2), (1.2, 1.2)]
    assert derived_cost_scale_usd(prices, 0, 512, 4) == pytest.approx(4 * 512 * 1.2 / 1e6)
    assert derived_cost_scale_usd(prices, 1000, 500, 1) == pytest.approx(1500 * 1.2 / 1e6)
    for bad in ([], [(0.0, 0.0)], [(-1.0, 1.0)], [(float("nan"), 1.0)]):
        with pytest.raises(ValueError, match=r"price|cost_scale_usd"):
            derived_cost_scale_usd(bad, 0, 512, 4)
    with pytest.raises(ValueError, match="cost_scale_usd=none"):
        Judge(RewardSettings(cost_scale_usd=None)).judge(episode(), ["lanu"])
