"""The transcript of an episode: the policy's text, turn by turn, and the replies to it.

A finished transcript is never changed. Its classes are still not frozen, because a frozen dataclass takes three times
as long to create, and scoring a file of episodes creates millions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CallStatus(StrEnum):
    """How a route ended. Only `ok` and `invalid_route` are the policy's own doing."""

    OK = "ok"
    INVALID_ROUTE = "invalid_route"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    PROVIDER_ERROR = "provider_error"
    OVER_BUDGET = "over_budget"

    @property
    def is_infrastructure(self) -> bool:
        """True if the provider or the budget failed, not the policy; such a call voids the episode or is charged."""
        return self in (CallStatus.TIMEOUT, CallStatus.PROVIDER_ERROR, CallStatus.OVER_BUDGET)


_INVALID_ROUTE = CallStatus.INVALID_ROUTE  # cached: Enum attribute access is slow in these loops


@dataclass(slots=True, unsafe_hash=True)
class RouteCall:
    """One question to one candidate, and its result."""

    requested: str  # the candidate's name as the policy wrote it
    model: str | None  # the name of the card that `requested` stands for; None for an invalid route
    query: str
    status: CallStatus
    reply: str = ""  # the candidate's text, as it was sent
    prompt_tokens: int = 0  # of the reply that ended the call; failed attempts are not counted
    completion_tokens: int = 0  # likewise
    cost_usd: float = 0.0  # of these tokens; if the infrastructure failed, the price reserved for the call
    latency_s: float = 0.0
    attempts: int = 1
    error: str = ""  # for people: why the status is not `ok`
    cost_estimated: bool = False  # the provider did not report all usage that it may bill
    raw_cost: float = 0.0  # in Router-R1's unit: completion tokens times USD per million of them
    voids: bool = False  # voids the episode whatever the recipe says about failed calls; see `final`
    final: bool = False  # a retry would fail in the same way


class BlockKind(StrEnum):
    """The kinds of blocks. The policy may write all but `information`, which only the episode writes."""

    THINK = "think"
    SEARCH = "search"
    INFORMATION = "information"
    ANSWER = "answer"


_ANSWER = BlockKind.ANSWER


@dataclass(slots=True, unsafe_hash=True)
class Block:
    """A tagged span of sampled text; `text` is its content, trimmed."""

    kind: BlockKind
    text: str
    closed: bool = True


@dataclass(slots=True, unsafe_hash=True)
class Turn:
    """The text that the policy sampled without a pause, and the calls that it led to."""

    text: str  # the sampled text, without a final information tag that only asks for the replies
    blocks: tuple[Block, ...]
    calls: tuple[RouteCall, ...] = ()  # in the order of their searches
    faults: tuple[str, ...] = ()  # faults of form that `rewards.grammar.TurnParser` found in the text


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    NO_ACTION = "no_action"  # a turn closed with neither a search nor an answer
    OUT_OF_ROUNDS = "out_of_rounds"  # the policy was told to answer, but searched again
    OUT_OF_TOKENS = "out_of_tokens"
    VOID = "void"  # the infrastructure failed: the episode gets no reward and is not trained on


class Verdict(StrEnum):
    """What a run does with an episode that has ended."""

    KEEP = "keep"  # it is judged and counted
    RETRY = "retry"  # it is void, and its question may be asked again
    GIVE_UP = "give_up"  # it is void, and a retry now would be too: a cap refused a call, or a replay repeats a failure


@dataclass(slots=True, unsafe_hash=True)
class Transcript:
    """An episode as the rewards see it: turns, never re-parsed text."""

    turns: tuple[Turn, ...]
    stop_reason: StopReason

    @property
    def calls(self) -> tuple[RouteCall, ...]:
        return tuple(call for turn in self.turns for call in turn.calls)

    @property
    def answer(self) -> str | None:
        """The content of the last closed answer block; None if there is none."""
        for turn in reversed(self.turns):
            for block in reversed(turn.blocks):
                if block.kind is _ANSWER and block.closed:
                    return block.text
        return None

    @property
    def verdict(self) -> Verdict:
        """Whether the episode counts and, if it is void, whether its question may be asked again.

        The only place that decides on a retry. `stop_reason` says whether the episode is void.
        """
        if self.stop_reason is not StopReason.VOID:
            return Verdict.KEEP
        hopeless = any(call.final or call.status is CallStatus.OVER_BUDGET for call in self.calls)
        return Verdict.GIVE_UP if hopeless else Verdict.RETRY

    @property
    def routes(self) -> int:
        """Number of calls to a model; invalid routes are left out."""
        return len([call for turn in self.turns for call in turn.calls if call.status is not _INVALID_ROUTE])

    @property
    def raw_cost(self) -> float:
        """Completion tokens times USD per million of them, summed over all calls."""
        return sum(call.raw_cost for call in self.calls)

    @property
    def cost_usd(self) -> float:
        return sum(call.cost_usd for call in self.calls)
