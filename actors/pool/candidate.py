"""One candidate as its caller knows it: where it is asked, what is sent, what that can cost, and its recent calls."""

from __future__ import annotations

import math
from collections import deque
from typing import Any
from urllib.parse import urlsplit

from actors.api_keys import read_api_key
from actors.pool.breaker import Breaker
from actors.pool.calls import CANDIDATE_PROMPT, CallRequest
from actors.pool.cards import ModelCard
from actors.pool.limits import Gate, TokenBucket
from actors.pool.reply import Reply, Usage
from actors.pool.settings import PoolSettings
from actors.pool.transport import PoolError

_CHARACTERS_PER_TOKEN = 4  # for estimates where a provider does not report its usage
_TEMPLATE_TOKENS = 64  # what a chat template adds to a prompt, generously
_RECENT_CALLS = 256
_FEWEST_CALLS = 20  # that a quantile is read from
_PROMPT_BYTES = len(CANDIDATE_PROMPT.encode())


class Endpoint:
    """A base URL, with the limits and the breaker that all its candidates share."""

    def __init__(self, base_url: str, settings: PoolSettings) -> None:
        self.base_url = base_url
        self.host = host_of(base_url)
        self.gate = Gate(settings.max_in_flight)
        self.breaker = Breaker()


class Candidate:
    """A card at its endpoint."""

    def __init__(self, card: ModelCard, endpoint: Endpoint, settings: PoolSettings) -> None:
        self.card = card
        self.endpoint = endpoint
        self._settings = settings
        self._requests = TokenBucket(card.requests_per_minute) if card.requests_per_minute else None
        self._tokens = TokenBucket(card.tokens_per_minute) if card.tokens_per_minute else None
        self._latencies: deque[float] = deque(maxlen=_RECENT_CALLS)
        self._usages: deque[tuple[Usage, Usage]] = deque(maxlen=_RECENT_CALLS)  # reported, and by the texts' lengths
        self._hedge_after_s: float | None = None

    def read_key(self) -> str | None:
        """The card's key, read from the environment now; none goes to an endpoint that overrides the card's.

        Raises:
            PoolError: its variable is not set, or holds what can't be a key.
        """
        card = self.card
        if card.api_key_env is None or self._settings.base_url is not None:
            return None
        otherwise = ", or set pool.base_url to a server that needs none"
        return read_api_key(card.api_key_env, f"card {card.name!r}", PoolError, otherwise)

    def payload(self, request: CallRequest) -> dict[str, Any]:
        """The body of the HTTP request. A seed goes only where something is drawn: at temperature 0 it decides
        nothing, and would make equal questions different ones to the ledger."""
        card = self.card
        payload: dict[str, Any] = {
            "model": card.model,
            "messages": [
                {"role": "system", "content": CANDIDATE_PROMPT},
                {"role": "user", "content": request.query},
            ],
            "max_tokens": self.most_tokens(request),
            "temperature": card.temperature,
        }
        if card.top_p < 1:
            payload["top_p"] = card.top_p
        if request.seed is not None and card.temperature > 0:
            payload["seed"] = request.seed
        if self._settings.send_question_id:
            payload["metadata"] = {"question_id": request.question_id}
        return payload

    def most_tokens(self, request: CallRequest) -> int:
        """Tokens that a reply may have."""
        return most_tokens(self.card, request)

    def worst_usd(self, request: CallRequest) -> float:
        """The most that one request can cost."""
        return worst_usd(self.card, request)

    def estimate(self, request: CallRequest, text: str | None) -> Usage:
        """Tokens by the lengths of the texts, in this model's tokens once it has reported some; without a reply's
        text, those of the longest reply allowed. Never more than the worst case."""
        most, length = self.most_tokens(request), _by_length(request, text or "")
        completion = most if text is None else self._scaled(length, "completion_tokens")
        prompt = min(self._scaled(length, "prompt_tokens"), most_prompt_tokens(self.card, request))
        return Usage(prompt, min(most, completion))

    def usage(self, request: CallRequest, reply: Reply) -> Usage | None:
        """The reported usage; None where there is none, or more tokens than the text sent and the reply allowed can
        take: it would cost more than was reserved for it."""
        usage = reply.usage
        if usage is None or usage.completion_tokens > self.most_tokens(request):
            return None
        return None if usage.prompt_tokens > most_prompt_tokens(self.card, request) else usage

    def price(self, request: CallRequest, reply: Reply | None) -> tuple[float, bool]:
        """What a request has cost in dollars, and whether that is an estimate; `reply` is None where we hung up.

        It is paid by its reported usage. Without one: what the texts' lengths say for a good reply, and a reply of
        full length for a refusal; nothing where the provider turned it away or never took it; what it sent and the mean
        of recent replies where its own was cut off, unreadable, or given up on by us (a deadline, a hedge that
        lost, an episode that ended), for the provider bills what it generates.
        """
        usage = None if reply is None else self.usage(request, reply)
        if usage is not None:
            return self.card.cost_usd(usage.prompt_tokens, usage.completion_tokens), False
        if reply is None or (reply.fault and (reply.may_be_billed or reply.usage is not None)):
            return self._guess_usd(request), True
        if reply.fault:
            return 0.0, False
        usage = self.estimate(request, None if reply.refusal else reply.text)
        return self.card.cost_usd(usage.prompt_tokens, usage.completion_tokens), True

    def take_turn(self, request: CallRequest) -> float:
        """Take a request's share of the limits per minute; return the seconds until it may be sent."""
        wait_s = self._requests.take(1) if self._requests else 0.0
        return max(wait_s, self._tokens.take(self._share(request))) if self._tokens else wait_s

    def give_back_turn(self, request: CallRequest) -> None:
        """The request was not sent."""
        if self._requests:
            self._requests.give_back(1)
        if self._tokens:
            self._tokens.give_back(self._share(request))

    def replied(self, request: CallRequest, text: str, usage: Usage | None, latency_s: float) -> None:
        """Remember a good reply, and correct the limit of tokens by what it took."""
        if usage is not None:
            self._usages.append((usage, _by_length(request, text)))
            if self._tokens:
                self._tokens.give_back(self._share(request) - usage.prompt_tokens - usage.completion_tokens)
        if self._settings.hedge_quantile is not None:
            self._latencies.append(latency_s)
            self._hedge_after_s = None

    def hedge_after_s(self) -> float | None:
        """Seconds after which a call is slow; None where calls are not hedged, or too few were seen to tell."""
        quantile = self._settings.hedge_quantile
        if quantile is None or len(self._latencies) < _FEWEST_CALLS:
            return None
        if self._hedge_after_s is None:
            ordered = sorted(self._latencies)
            self._hedge_after_s = ordered[min(len(ordered) - 1, math.floor(quantile * len(ordered)))]
        return self._hedge_after_s

    def _guess_usd(self, request: CallRequest) -> float:
        """What a request probably cost whose reply never came: its prompt, and a reply such as recent ones; at most its
        worst case, and that where there are no recent ones."""
        worst_usd = self.worst_usd(request)
        if not self._usages:
            return worst_usd
        prompt, count = self.estimate(request, None).prompt_tokens, len(self._usages)
        completions = sum(usage.completion_tokens for usage, _ in self._usages)
        return min(worst_usd, self.card.cost_usd(prompt * count, completions) / count)

    def _scaled(self, length: Usage, field: str) -> int:
        """Tokens by a text's length, times what the model reported over that for recent calls."""
        tokens = int(getattr(length, field))
        reported = sum(getattr(usage, field) for usage, _ in self._usages)
        expected = sum(getattr(usage, field) for _, usage in self._usages)
        return max(1, round(tokens * reported / expected)) if expected else tokens

    def _share(self, request: CallRequest) -> int:
        return _by_length(request, "").prompt_tokens + self.most_tokens(request)  # providers count max_tokens, too


def most_tokens(card: ModelCard, request: CallRequest) -> int:
    """Tokens that a reply may have."""
    return min(request.max_tokens, card.max_output_tokens)


def worst_usd(card: ModelCard, request: CallRequest) -> float:
    """The most that one request can cost."""
    return card.cost_usd(most_prompt_tokens(card, request), most_tokens(card, request))


def most_prompt_tokens(card: ModelCard, request: CallRequest) -> int:
    """Tokens that a prompt may have: no tokenizer makes more of a text than it has bytes."""
    prompt = _PROMPT_BYTES + len(request.query.encode("utf-8", "replace")) + _TEMPLATE_TOKENS
    return prompt if card.context_tokens is None else min(prompt, card.context_tokens)


def host_of(base_url: str) -> str:
    """The host of an endpoint, with its port where it names one."""
    return urlsplit(base_url).netloc


def _by_length(request: CallRequest, text: str) -> Usage:
    """Tokens of a request and a reply at the usual length of a token."""
    return Usage(_PROMPT_TOKENS + _tokens_of(request.query), _tokens_of(text))


def _tokens_of(text: str) -> int:
    return max(1, math.ceil(len(text) / _CHARACTERS_PER_TOKEN))


_PROMPT_TOKENS = _tokens_of(CANDIDATE_PROMPT)
