"""The remote model: another model that plays the policy, over an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from actors.engine.generation import Generation
from actors.errors import ExplainedError
from actors.pool.cards import check_base_url
from actors.pool.transport import SHORTEST_SECRET
from actors.settings import SamplingSettings
from rewards.grammar import CLOSE, OPEN, TurnParser
from rewards.transcript import BlockKind, RouteCall

_INFORMATION = OPEN[BlockKind.INFORMATION]
_LONGEST_COMPLAINT = 300  # characters of a provider's message
# A remote model may write this many of its own tokens per policy token. Its text is then cut to the policy's limit.
_TOKENS_PER_POLICY_TOKEN = 2


class RemoteModelError(ExplainedError, RuntimeError):
    """The remote model can't be asked; the message names the endpoint and the remedy, and holds no key."""


class RemoteModelRefusal(RuntimeError):
    """The remote model's provider rejected one conversation, for example because it is too long."""


@dataclass(frozen=True, slots=True)
class Said:
    """One reply of the remote model."""

    text: str  # ends with the stop string if one was met
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int  # in the remote model's tokens, as is the next; 0 if not reported
    completion_tokens: int


class RemoteModel:
    """One model at one endpoint; use it from a single event loop and close it."""

    def __init__(
        self, base_url: str, model: str, *, key: str | None = None, timeout_s: float = 120.0, attempts: int = 5
    ) -> None:
        """`timeout_s` is the deadline of one attempt; up to `attempts` are made if the failures may be temporary.

        Raises:
            RemoteModelError: `base_url` is not a usable URL.
        """
        try:
            self.base_url = check_base_url(base_url)
        except ValueError as error:
            raise RemoteModelError(f"the base URL of {model} {error}") from error
        self.model = model
        self._key = key
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._client = AsyncOpenAI(
            base_url=self.base_url,
            api_key=key or "none",
            timeout=timeout_s,
            max_retries=attempts - 1,
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),  # the key goes only to the named host
        )

    async def say(
        self, messages: list[dict[str, str]], *, max_tokens: int, stop: list[str], temperature: float
    ) -> Said:
        """The remote model's reply to a conversation, up to and with the first of the strings in `stop`.

        Raises:
            RemoteModelRefusal: the provider rejected this conversation.
            RemoteModelError: the remote model can't be asked at all, or all attempts failed.
        """
        # Without parameters that some providers reject, such as a seed.
        request: Any = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "stop": stop}
        request["temperature"] = temperature
        try:
            reply: Any = await self._client.chat.completions.create(**request)
        except openai.APIStatusError as error:
            raise self._explain(error) from None
        except openai.APITimeoutError:
            raise RemoteModelError(
                f"{self.base_url} did not answer within {self._timeout_s:g} s, {self._attempts} times (--timeout-s); "
                "raise it, or ask fewer at a time (--concurrency)"
            ) from None
        except openai.APIConnectionError as error:
            raise RemoteModelError(
                f"{self.base_url} can't be reached ({self._clean(str(error.__cause__ or error))}); start the server, "
                "or correct its URL"
            ) from None
        except json.JSONDecodeError:
            raise self._no_completion() from None
        choices = getattr(reply, "choices", None)
        choice: Any = choices[0] if choices else None
        if getattr(choice, "message", None) is None:
            raise self._no_completion()
        content = getattr(choice.message, "content", None)  # None if the model only thought, or called a tool
        # JSON may hold a lone surrogate, but tokenizers and files can't.
        text = content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""
        return Said(
            *end_turn(text, stop, getattr(choice, "finish_reason", None), getattr(choice, "stop_reason", None)),
            prompt_tokens=_count(reply, "prompt_tokens"),
            completion_tokens=_count(reply, "completion_tokens"),
        )

    async def close(self) -> None:
        await self._client.close()

    def _explain(self, error: openai.APIStatusError) -> RuntimeError:
        status, said = error.status_code, self._clean(error.message)
        if status in (400, 413, 422):
            return RemoteModelRefusal(f"{self.base_url}: HTTP {status}: {said}")
        if status in (401, 403):
            # Providers repeat a part of the key here, so their message is left out.
            return RemoteModelError(f"{self.base_url} refused the key (HTTP {status}); check --api-key-env")
        if status == 404:
            return RemoteModelError(
                f"{self.base_url}: HTTP 404: {said}; check the model's name, {self.model}, and the URL, whose path "
                "often is /v1"
            )
        if 300 <= status < 400:
            return RemoteModelError(
                f"{self.base_url} redirects (HTTP {status}), which is never followed; give the final URL"
            )
        return RemoteModelError(
            f"{self.base_url}: HTTP {status} after {self._attempts} attempts: {said}; try again later"
        )

    def _no_completion(self) -> RemoteModelError:
        return RemoteModelError(f"{self.base_url} answers with something else than a chat completion; check its URL")

    def _clean(self, message: str) -> str:
        """A provider's message on one line, short, without the key."""
        if self._key and len(self._key) >= SHORTEST_SECRET:
            message = message.replace(self._key, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in message).split())[:_LONGEST_COMPLAINT]


def _count(reply: Any, name: str) -> int:
    """A number of the reported usage; 0 if it is missing or nonsense."""
    value = getattr(getattr(reply, "usage", None), name, None)
    return value if isinstance(value, int) and value > 0 else 0


def end_turn(
    text: str, stop: list[str], finish_reason: str | None, matched: object = None
) -> tuple[str, Literal["stop", "length"]]:
    """A turn's text and finish reason as the policy would have ended it: with the stop string, which providers cut off.

    `matched` is the stop string that ended the turn, if the provider reports it. Otherwise it is inferred: the closing
    tag of the last block if that is open, or after searches the information tag, which asks for their replies.
    """
    places = [(place, mark) for mark in stop if (place := text.find(mark)) >= 0]
    if places:
        place, mark = min(places)
        return text[: place + len(mark)], "stop"
    if finish_reason == "length":
        return text, "length"
    if matched in stop:
        return f"{text}{matched}", "stop"
    parser = TurnParser()
    parser.feed(text)
    blocks = parser.finish()
    if blocks and not blocks[-1].closed:
        closing = CLOSE[blocks[-1].kind]
        return (f"{text}{closing}" if closing in stop else text), "stop"
    searched = any(block.kind is BlockKind.SEARCH for block in blocks)
    return (f"{text}{_INFORMATION}" if searched and _INFORMATION in stop else text), "stop"


class Conversation:
    """A remote model in the policy's place for one episode: both the episode's `generate` and its observer.

    `messages` is the conversation so far: the prompt, then alternately its turns and the texts that it read.
    """

    def __init__(self, model: RemoteModel, tokenizer: Any, prompt: str) -> None:
        """`tokenizer` is the policy's, whose tokens the episode counts; `prompt` is the remote model's."""
        self._model = model
        self._tokenizer = tokenizer
        self.messages = [{"role": "user", "content": prompt}]
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def generate(
        self,
        prompt_ids: list[int],
        *,
        max_tokens: int,
        stop: list[str],
        sampling: SamplingSettings,
        seed: int | None,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """The model's turn, in the policy's tokens; no log-probability is known, so all are 0.

        Raises:
            RemoteModelError, RemoteModelRefusal: see `RemoteModel.say`.
        """
        most = max_tokens * _TOKENS_PER_POLICY_TOKEN
        said = await self._model.say(self.messages, max_tokens=most, stop=stop, temperature=sampling.temperature)
        self.prompt_tokens += said.prompt_tokens
        self.completion_tokens += said.completion_tokens
        text, finish_reason = said.text, said.finish_reason
        token_ids = list(self._tokenizer.encode(text, add_special_tokens=False))
        if len(token_ids) > max_tokens:
            token_ids, finish_reason = token_ids[:max_tokens], "length"
            text = str(self._tokenizer.decode(token_ids))
        self.messages.append({"role": "assistant", "content": text})
        if on_text is not None and text:
            on_text(text)
        return Generation(token_ids, [0.0] * len(token_ids), [0] * len(token_ids), text, finish_reason)

    def on_text(self, text: str, kind: BlockKind | None) -> None:
        """Do nothing: `messages` already holds the text."""

    def on_call(self, call: RouteCall) -> None:
        """Do nothing: the transcript holds the call."""

    def on_read(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
