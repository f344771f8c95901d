"""The transcript of an episode: what the policy wrote, turn by turn, and what was replied to it."""

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
        """True where the provider or the budget failed, not the policy: such a call voids the episode."""
        return self in (CallStatus.TIMEOUT, CallStatus.PROVIDER_ERROR, CallStatus.OVER_BUDGET)


@dataclass(frozen=True, slots=True)
class RouteCall:
    """One question put to one candidate, and what came of it."""

    requested: str  # the candidate's name as the policy wrote it
    model: str | None  # the card it resolved to; None for an invalid route
    query: str
    status: CallStatus
    reply: str = ""  # the candidate's text, as it was sent
    prompt_tokens: int = 0  # of the reply that ended the call; attempts that failed are not counted
    completion_tokens: int = 0
    cost_usd: float = 0.0  # of these tokens; 0 for a call of the infrastructure's failure, which voids the episode
    latency_s: float = 0.0
    attempts: int = 1
    error: str = ""  # for people: why it is not `ok`


class BlockKind(StrEnum):
    """The blocks a policy may write; `information` is written by the episode alone."""

    THINK = "think"
    SEARCH = "search"
    INFORMATION = "information"
    ANSWER = "answer"


@dataclass(frozen=True, slots=True)
class Block:
    """A tagged span of sampled text, its content trimmed."""

    kind: BlockKind
    text: str
    closed: bool = True


@dataclass(frozen=True, slots=True)
class Turn:
    """What the policy sampled between two replies, and the call that it led to."""

    text: str  # the sampled text, whole
    blocks: tuple[Block, ...]
    call: RouteCall | None = None
    faults: tuple[str, ...] = ()  # what `rewards.grammar.TurnParser` found wrong with the text's form


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    NO_ACTION = "no_action"  # a turn closed with neither a search nor an answer
    OUT_OF_ROUNDS = "out_of_rounds"  # it was told to answer, and searched again
    OUT_OF_TOKENS = "out_of_tokens"
    VOID = "void"  # infrastructure failed: no reward, not trained on


@dataclass(frozen=True, slots=True)
class Transcript:
    """An episode as the rewards see it: turns, never re-parsed text."""

    turns: tuple[Turn, ...]
    stop_reason: StopReason

    @property
    def calls(self) -> tuple[RouteCall, ...]:
        return tuple(turn.call for turn in self.turns if turn.call is not None)

    @property
    def answer(self) -> str | None:
        """The content of the closed answer block, None where there is none."""
        answers = [b.text for t in self.turns for b in t.blocks if b.kind is BlockKind.ANSWER and b.closed]
        return answers[-1] if answers else None

    @property
    def cost_usd(self) -> float:
        return sum(call.cost_usd for call in self.calls)
