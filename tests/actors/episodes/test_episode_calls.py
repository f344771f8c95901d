"""The calls of an episode: failures, names that no candidate has, and several searches at once."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from scripted import ANSWER, MENU, QUESTION, SEARCH, SEVERAL, TOKENIZER, Script, play, replying

from actors.episodes.episode import Ask, Episode, EpisodeRequest, PromptTooLong
from actors.episodes.prompt import invalid_route_feedback, render_information
from actors.ledger.entry import LedgerError
from actors.pool.calls import CallRequest
from actors.settings import EpisodeSettings
from actors.together import run_together
from rewards.form import violations
from rewards.grammar import parse_turn
from rewards.transcript import BlockKind, CallStatus, RouteCall, StopReason


class Failing:
    """A candidate that fails a number of times before it replies, and keeps its requests."""

    def __init__(self, failures: int, status: CallStatus = CallStatus.TIMEOUT) -> None:
        self.failures = failures
        self.status = status
        self.asked: list[CallRequest] = []

    async def ask(self, request: CallRequest) -> RouteCall:
        self.asked.append(request)
        failed = len(self.asked) <= self.failures
        status, reply = (self.status, "") if failed else (CallStatus.OK, "it is sena .")
        return RouteCall(request.requested, request.model, request.query, status, reply, cost_usd=0.002)


@pytest.mark.parametrize("status", [CallStatus.TIMEOUT, CallStatus.PROVIDER_ERROR, CallStatus.OVER_BUDGET])
async def test_a_failure_of_infrastructure_voids_the_episode(status: CallStatus) -> None:
    trajectory = await play(Script(SEARCH, ANSWER), replying("", status))
    assert trajectory.transcript.stop_reason is StopReason.VOID


async def test_a_refusal_is_read_and_the_episode_goes_on() -> None:
    script = Script(SEARCH, ANSWER)
    trajectory = await play(script, replying("", CallStatus.REFUSED))
    assert trajectory.transcript.stop_reason is StopReason.ANSWERED
    assert "available now" in TOKENIZER.decode(script.prompts[1])


async def test_naming_nobody_asks_nobody_and_says_so() -> None:
    async def ask(request: CallRequest) -> RouteCall:
        raise AssertionError(f"nobody was to be asked, got {request}")

    script = Script("<think> a </think> <search> nobody : comet of lanu </search>", ANSWER)
    trajectory = await play(script, ask)
    assert [call.status for call in trajectory.transcript.calls] == [CallStatus.INVALID_ROUTE]
    said = TOKENIZER.encode(script.turns[0], add_special_tokens=False)
    feedback = render_information(invalid_route_feedback("nobody", MENU))
    assert MENU.items[-1].name in feedback
    read = script.prompts[1][len(script.prompts[0]) + len(said) :]
    assert read == TOKENIZER.encode(feedback, add_special_tokens=False)


async def test_a_silent_episode_does_not_say_why_nobody_replied() -> None:
    script = Script("<think> a </think> <search> nobody : comet of lanu </search>", ANSWER)
    trajectory = await play(script, replying(), invalid_route="silent")
    assert [call.status for call in trajectory.transcript.calls] == [CallStatus.INVALID_ROUTE]
    said = TOKENIZER.encode(script.turns[0], add_special_tokens=False)
    read = script.prompts[1][len(script.prompts[0]) + len(said) :]
    assert read == TOKENIZER.encode("<information></information>", add_special_tokens=False)


RETRY: dict[str, Any] = {"on_failed_call": "retry", "retry_pause_s": 0.001}


async def test_a_failed_call_is_made_again_in_the_same_place_before_the_episode_is_void() -> None:
    recovers, fails = Failing(2), Failing(3)
    trajectory = await play(Script(SEARCH, ANSWER), recovers.ask, timeout_retries=2, **RETRY)
    assert trajectory.transcript.stop_reason is StopReason.ANSWERED
    assert [call.status for call in trajectory.transcript.calls] == [CallStatus.OK]
    assert recovers.asked == [recovers.asked[0]] * 3
    assert (recovers.asked[0].step, recovers.asked[0].episode, recovers.asked[0].turn) == (3, "g/7", 0)
    void = await play(Script(SEARCH, ANSWER), fails.ask, timeout_retries=2, **RETRY)
    assert void.transcript.stop_reason is StopReason.VOID
    assert len(fails.asked) == 3


@pytest.mark.parametrize(
    ("failures", "asked"),
    [
        ("tttt", 3),  # two more after the first
        ("eeee", 2),
        ("tete", 4),  # timeouts and provider errors have separate budgets
        ("eett", 2),
    ],
)
async def test_timeouts_and_provider_errors_have_separate_budgets(failures: str, asked: int) -> None:
    status = {"t": CallStatus.TIMEOUT, "e": CallStatus.PROVIDER_ERROR}
    count = 0

    async def ask(request: CallRequest) -> RouteCall:
        nonlocal count
        count += 1
        return RouteCall(request.requested, request.model, request.query, status[failures[count - 1]])

    void = await play(Script(SEARCH, ANSWER), ask, timeout_retries=2, provider_error_retries=1, **RETRY)
    assert void.transcript.stop_reason is StopReason.VOID
    assert count == asked


async def test_the_default_pauses_last_through_an_outage_of_twenty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal clock
        pauses.append(seconds)
        clock += seconds

    async def ask(request: CallRequest) -> RouteCall:
        status = CallStatus.OK if clock >= 20 else CallStatus.PROVIDER_ERROR  # fails at once: its breaker is open
        return RouteCall(request.requested, request.model, request.query, status, "it is sena .")

    monkeypatch.setattr("actors.episodes.episode.asyncio.sleep", sleep)
    trajectory = await play(Script(SEARCH, ANSWER), ask, on_failed_call="retry")
    assert trajectory.transcript.stop_reason is StopReason.ANSWERED
    assert all(1.5 <= pauses[0] <= 2.5 and later > earlier for earlier, later in pairwise(pauses[:4]))
    pauses.clear()
    clock = -1e9
    void = await play(Script(SEARCH, ANSWER), ask, on_failed_call="retry", provider_error_retries=40)
    assert void.transcript.stop_reason is StopReason.VOID
    assert len(pauses) == 40
    assert max(pauses) <= 20
    assert len(set(pauses[10:])) > 1  # pauses are jittered


@pytest.mark.parametrize("status", [CallStatus.TIMEOUT, CallStatus.PROVIDER_ERROR])
async def test_a_failed_call_may_be_charged_and_read_as_such(status: CallStatus) -> None:
    script = Script(SEARCH, ANSWER)
    trajectory = await play(script, Failing(1, status).ask, on_failed_call="charge")
    assert trajectory.transcript.stop_reason is StopReason.ANSWERED
    assert trajectory.transcript.cost_usd == 0.002
    assert "available now" in TOKENIZER.decode(script.prompts[1])


@pytest.mark.parametrize("setting", ["void", "retry", "charge"])
async def test_a_spent_budget_voids_the_episode_whatever_becomes_of_failures(setting: str) -> None:
    candidate = Failing(9, CallStatus.OVER_BUDGET)
    trajectory = await play(Script(SEARCH, ANSWER), candidate.ask, on_failed_call=setting)
    assert trajectory.transcript.stop_reason is StopReason.VOID
    assert len(candidate.asked) == 1


@pytest.mark.parametrize("setting", ["void", "retry", "charge"])
async def test_a_call_that_a_replay_lacks_voids_the_episode_whatever_becomes_of_failures(setting: str) -> None:
    asked: list[CallRequest] = []

    async def ask(request: CallRequest) -> RouteCall:
        asked.append(request)
        error = CallStatus.PROVIDER_ERROR
        return RouteCall("x", request.model, request.query, error, cost_usd=0.002, voids=True, final=True)

    trajectory = await play(Script(SEARCH, ANSWER), ask, on_failed_call=setting)
    assert trajectory.transcript.stop_reason is StopReason.VOID
    assert len(asked) == 1


FIRST, SECOND = MENU.items[0].name, MENU.items[1].name
BOTH = f"<think> a </think> <search> {FIRST} : comet of lanu </search> <search> {SECOND} : moon of lanu </search>"
ALL_THREE = f"{BOTH} <search> {FIRST} : star of lanu </search>"


def echoing(requests: list[CallRequest]) -> Ask:
    """Replies with the query; answers the first search only after the second was asked."""
    asked = asyncio.Event()

    async def ask(request: CallRequest) -> RouteCall:
        requests.append(request)
        if request.index == 1:
            asked.set()
        else:
            await asyncio.wait_for(asked.wait(), 5)
        return RouteCall(request.requested, request.model, request.query, CallStatus.OK, request.query, cost_usd=0.001)

    return ask


@pytest.mark.parametrize("ending", [" <information>", "", " a"])
@pytest.mark.parametrize("searches", [BOTH, ALL_THREE])
async def test_searches_of_a_turn_go_out_together_and_are_read_in_order(searches: str, ending: str) -> None:
    requests: list[CallRequest] = []
    script = Script(searches + ending, ANSWER, finish="stop")
    trajectory = await play(script, echoing(requests), **SEVERAL)
    assert [(r.requested, r.turn, r.index) for r in requests] == [(FIRST, 0, 0), (SECOND, 0, 1)]
    turn = trajectory.transcript.turns[0]
    assert [call.query for call in turn.calls] == ["comet of lanu", "moon of lanu"]
    assert parse_turn(turn.text) == (turn.blocks, turn.faults)
    assert BlockKind.INFORMATION not in {block.kind for block in turn.blocks}
    many = "many_actions" in violations(trajectory.transcript)
    assert many == (searches == ALL_THREE)  # its third search was not asked
    # The sampled tokens stay as they were, the policy's own opening tag included, and the replies follow them.
    said = TOKENIZER.encode(script.turns[0], add_special_tokens=False)
    assert script.prompts[1][len(script.prompts[0]) :][: len(said)] == said
    read = TOKENIZER.decode(script.prompts[1][len(script.prompts[0]) :]).partition(searches)[2]
    blocks, faults = parse_turn(read)
    assert [block.text for block in blocks] == ["comet of lanu", "moon of lanu"]
    assert faults == (("text_outside",) if ending == " a" else ())


async def test_one_failure_among_several_voids_the_episode_and_keeps_all_calls() -> None:
    async def ask(request: CallRequest) -> RouteCall:
        status = CallStatus.TIMEOUT if request.index == 0 else CallStatus.OK
        return RouteCall(request.requested, request.model, request.query, status, "it is sena .", cost_usd=0.001)

    trajectory = await play(Script(BOTH + "<information>", ANSWER), ask, **SEVERAL)
    assert trajectory.transcript.stop_reason is StopReason.VOID
    assert [call.status for call in trajectory.transcript.calls] == [CallStatus.TIMEOUT, CallStatus.OK]


async def test_opening_an_information_block_without_a_search_asks_nobody() -> None:
    trajectory = await play(Script("<think> a </think> <information>"), replying(), **SEVERAL)
    assert trajectory.transcript.stop_reason is StopReason.NO_ACTION
    assert violations(trajectory.transcript) == ("no_answer",)


class Hanging:
    """Two searches are asked together: the first hangs, and the second can't be recorded."""

    def __init__(self) -> None:
        self.cancelled = False

    async def ask(self, request: CallRequest) -> RouteCall:
        if request.index == 1:
            raise LedgerError("the disk is full; free space")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError("nobody was to wait for it")


async def test_an_error_of_one_search_ends_the_others_and_surfaces_as_itself() -> None:
    hanging = Hanging()
    with pytest.raises(LedgerError, match="the disk is full; free space"):
        await asyncio.wait_for(play(Script(BOTH + "<information>", ANSWER), hanging.ask, **SEVERAL), 5)
    assert hanging.cancelled


async def test_the_first_error_of_many_episodes_is_raised_alone_and_ends_the_rest() -> None:
    hanging = Hanging()

    def episode(length: int, ask: Ask) -> Episode:
        return Episode(
            EpisodeRequest(QUESTION, MENU, "g", 7),
            tokenizer=TOKENIZER,
            generate=Script(SEARCH, ANSWER).generate,
            ask=ask,
            settings=EpisodeSettings(prompt="compact"),
            max_model_len=length,
        )

    waiting = [episode(512, hanging.ask) for _ in range(3)]
    together = [*waiting, episode(8, hanging.ask), episode(8, hanging.ask)]
    with pytest.raises(PromptTooLong, match=r"^question 'q': the prompt takes .*raise engine\.max_model_len") as caught:
        await asyncio.wait_for(run_together(each.run() for each in together), 5)
    assert hanging.cancelled
    [note] = caught.value.__notes__
    assert note.startswith("meanwhile: PromptTooLong(")


def test_a_replay_has_no_use_for_retries() -> None:
    assert EpisodeSettings(on_failed_call="retry").without_retries().on_failed_call == "void"
    assert EpisodeSettings(on_failed_call="charge").without_retries().on_failed_call == "charge"
