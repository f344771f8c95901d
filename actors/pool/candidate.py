"""One candidate as its caller sees it: its endpoint, its request bodies, its prices and its recent calls."""

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
_TEMPLATE_TOKENS = 64  # that a chat template adds to a prompt, at most
_RECENT_CALLS = 256
_FEWEST_CALLS = 20  # for a quantile
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
        self._usages: deque[tuple[Usage, Usage]] = deque(maxlen=_RECENT_CALLS)  # (reported, estimated by length)
        self._hedge_after_s: float | None = None

    def read_key(self) -> str | None:
        """The card's key, read from the environment now; None if it has none, or if `base_url` overrides its endpoint.

        Raises:
            PoolError: the key's variable is not set, or its value can't be a key.
        """
        card = self.card
        if card.api_key_env is None or self._settings.base_url is not None:
            return None
        otherwise = ", or set pool.base_url to a server that needs none"
        return read_api_key(card.api_key_env, f"card {card.name!r}", PoolError, otherwise)

    def payload(self, request: CallRequest) -> dict[str, Any]:
        """The body of the HTTP request. It holds a seed only if the candidate samples: at temperature 0 a seed has no
        effect, and would make equal questions different in the ledger."""
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
        """The most tokens that a reply may have."""
        return most_tokens(self.card, request)

    def worst_usd(self, request: CallRequest) -> float:
        """The most that one request can cost, in dollars."""
        return worst_usd(self.card, request)

    def estimate(self, request: CallRequest, text: str | None) -> Usage:
        """Tokens estimated from the lengths of the texts, scaled by this model's reported usage if there is any. If
        `text` is None, the longest reply allowed is assumed. Never more than the worst case."""
        most, length = self.most_tokens(request), _by_length(request, text or "")
        completion = most if text is None else self._scaled(length, "completion_tokens")
        prompt = min(self._scaled(length, "prompt_tokens"), most_prompt_tokens(self.card, request))
        return Usage(prompt, min(most, completion))

    def usage(self, request: CallRequest, reply: Reply) -> Usage | None:
        """The reported usage; None if there is none, or if it has more tokens than the prompt and the longest reply can
        have: it would cost more than was reserved."""
        usage = reply.usage
        if usage is None or usage.completion_tokens > self.most_tokens(request):
            return None
        return None if usage.prompt_tokens > most_prompt_tokens(self.card, request) else usage

    def price(self, request: CallRequest, reply: Reply | None) -> tuple[float, bool]:
        """A request's cost in dollars, and whether it is an estimate; `reply` is None if we hung up.

        The reported usage decides. Without it, the cost is that of:

        - for a good reply, the tokens estimated from the texts' lengths;
        - for a refusal, a reply of full length;
        - for a request that the provider rejected or never received, nothing;
        - for a reply that was cut off or unreadable, or that we gave up (a deadline, a hedge that lost, an episode that
          ended), the prompt and a mean recent reply, because the provider bills what it generates.
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
        """Give back the share of a request that was not sent."""
        if self._requests:
            self._requests.give_back(1)
        if self._tokens:
            self._tokens.give_back(self._share(request))

    def replied(self, request: CallRequest, text: str, usage: Usage | None, latency_s: float) -> None:
        """Remember a good reply, and correct the limit of tokens by its actual usage."""
        if usage is not None:
            self._usages.append((usage, _by_length(request, text)))
            if self._tokens:
                self._tokens.give_back(self._share(request) - usage.prompt_tokens - usage.completion_tokens)
        if self._settings.hedge_quantile is not None:
            self._latencies.append(latency_s)
            self._hedge_after_s = None

    def hedge_after_s(self) -> float | None:
        """Seconds after which a call is slow; None if calls are not hedged, or too few were seen."""
        quantile = self._settings.hedge_quantile
        if quantile is None or len(self._latencies) < _FEWEST_CALLS:
            return None
        if self._hedge_after_s is None:
            ordered = sorted(self._latencies)
            self._hedge_after_s = ordered[min(len(ordered) - 1, math.floor(quantile * len(ordered)))]
        return self._hedge_after_s

    def _guess_usd(self, request: CallRequest) -> float:
        """The probable cost of a request whose reply never came, in dollars: its prompt and a mean recent reply, but at
        most its worst case. Without recent replies, its worst case."""
        worst_usd = self.worst_usd(request)
        if not self._usages:
            return worst_usd
        prompt, count = self.estimate(request, None).prompt_tokens, len(self._usages)
        completions = sum(usage.completion_tokens for usage, _ in self._usages)
        return min(worst_usd, self.card.cost_usd(prompt * count, completions) / count)

    def _scaled(self, length: Usage, field: str) -> int:
        """Tokens by a text's length, times the ratio of reported to estimated tokens in recent calls."""
        tokens = int(getattr(length, field))
        reported = sum(getattr(usage, field) for usage, _ in self._usages)
        expected = sum(getattr(usage, field) for _, usage in self._usages)
        return max(1, round(tokens * reported / expected)) if expected else tokens

    def _share(self, request: CallRequest) -> int:
        return _by_length(request, "").prompt_tokens + self.most_tokens(request)  # providers count max_tokens, too


def most_tokens(card: ModelCard, request: CallRequest) -> int:
    """The most tokens that a reply may have."""
    return min(request.max_tokens, card.max_output_tokens)


def worst_usd(card: ModelCard, request: CallRequest) -> float:
    """The most that one request can cost, in dollars."""
    return card.cost_usd(most_prompt_tokens(card, request), most_tokens(card, request))


def most_prompt_tokens(card: ModelCard, request: CallRequest) -> int:
    """The most tokens that a prompt may have: no tokenizer makes more tokens of a text than the text has bytes."""
    prompt = _PROMPT_BYTES + len(request.query.encode("utf-8", "replace")) + _TEMPLATE_TOKENS
    return prompt if card.context_tokens is None else min(prompt, card.context_tokens)


def host_of(base_url: str) -> str:
    """The host of an endpoint, with its port if the URL has one."""
    return urlsplit(base_url).netloc


def _by_length(request: CallRequest, text: str) -> Usage:
    """Tokens of a request and a reply, estimated at four characters per token."""
    return Usage(_PROMPT_TOKENS + _tokens_of(request.query), _tokens_of(text))


def _tokens_of(text: str) -> int:
    return max(1, math.ceil(len(text) / _CHARACTERS_PER_TOKEN))


_PROMPT_TOKENS = _tokens_of(CANDIDATE_PROMPT)
