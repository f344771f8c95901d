"""The OpenAI chat-completions format: requests read and checked, replies, stream chunks and errors written."""

from __future__ import annotations

import json
import random
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actors.episodes.trajectory import Trajectory
from actors.settings import SamplingSettings
from cluster.players.responder import Ask
from rewards.transcript import CallStatus, RouteCall, StopReason

MODEL = "router-r1"

# Options that this service does not have, and their values that ask for nothing and so are accepted.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "stop": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": (),
}
# Options that would change no answer; they are ignored.
_IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
_VOID_STATUS = {CallStatus.TIMEOUT: 504, CallStatus.PROVIDER_ERROR: 502, CallStatus.OVER_BUDGET: 429}


class ApiError(Exception):
    """An error that the client gets in OpenAI's format."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        routes: tuple[RouteCall, ...] = (),
        retry: bool = True,
    ) -> None:
        """`retry=False` tells OpenAI's clients not to try again by themselves."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.routes = routes
        self.headers = {} if retry else {"x-should-retry": "false"}

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error: dict[str, Any] = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        if self.routes:
            error["router_r1"] = {"routes": [route_row(call) for call in self.routes]}
        return {"error": error}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: str
    text: str = ""


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class _Body(BaseModel):
    """The options of a chat-completion request that this service uses."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    messages: list[_Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    max_tokens: int | None = Field(None, gt=0)
    max_completion_tokens: int | None = Field(None, gt=0)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request."""

    ask: Ask
    stream: bool
    include_usage: bool


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read a request. The question is the last user message; earlier messages are not read by the policy.

    Without `temperature` the policy is greedy; without `seed` a sampled episode is drawn anew each time.

    Raises:
        ApiError: no JSON, a wrong or unsupported option, another model, no question.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ApiError(400, f"the body must be a JSON object, got {type(values).__name__}")
    _refuse_unsupported(values)
    try:
        parsed = _Body.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from error
    if parsed.model != MODEL:
        raise no_such_model(parsed.model)
    temperature = parsed.temperature or 0.0
    seed = parsed.seed if parsed.seed is not None or temperature == 0 else random.getrandbits(31)
    ask = Ask(
        question=_question(parsed.messages),
        sampling=SamplingSettings(temperature=temperature, top_p=parsed.top_p or 1.0),
        seed=(seed or 0) % 2**31,
        max_tokens=parsed.max_completion_tokens or parsed.max_tokens,
    )
    options = parsed.stream_options
    return ChatRequest(ask, bool(parsed.stream), options is not None and options.include_usage)


def no_such_model(name: str) -> ApiError:
    return ApiError(404, f"the model {name!r} does not exist; ask {MODEL!r}", code="model_not_found", param="model")


def route_row(call: RouteCall) -> dict[str, Any]:
    """A route as the extra field `router_r1` shows it."""
    return {
        "model": call.model,
        "requested": call.requested,
        "query": call.query,
        "status": call.status.value,
        "reply": call.reply,
        "cost_usd": call.cost_usd,
        "latency_s": call.latency_s,
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "error": call.error,
    }


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """Writes one reply: its content is the answer; its reasoning is the text that the policy wrote and read before."""

    version: int  # of the policy
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, trajectory: Trajectory, reasoning: str) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": trajectory.transcript.answer or "",
            "refusal": None,
            "reasoning_content": reasoning,
        }
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": _finish_reason(trajectory),
            "logprobs": None,
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": _usage(trajectory),
            "router_r1": self._summary(trajectory),
        }

    def delta(self, **delta: str) -> dict[str, Any]:
        """A chunk with a piece of the message."""
        return self._chunk(delta, None)

    def route(self, call: RouteCall) -> dict[str, Any]:
        """A chunk with a route, in `router_r1.route`."""
        return {**self._chunk({}, None), "router_r1": {"route": route_row(call)}}

    def last(self, trajectory: Trajectory) -> dict[str, Any]:
        """The chunk with the finish reason and the summary of the routes."""
        return {**self._chunk({}, _finish_reason(trajectory)), "router_r1": self._summary(trajectory)}

    def usage(self, trajectory: Trajectory) -> dict[str, Any]:
        """The chunk after the last that `stream_options.include_usage` asks for."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(trajectory)}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": MODEL,
            "system_fingerprint": f"policy-{self.version}",
        }

    def _summary(self, trajectory: Trajectory) -> dict[str, Any]:
        transcript = trajectory.transcript
        return {
            "routes": [route_row(call) for call in transcript.calls],
            "cost_usd": transcript.cost_usd,
            "stop_reason": transcript.stop_reason.value,
            "policy_version": self.version,
            "wall_s": trajectory.wall_s,
        }


def void_error(trajectory: Trajectory) -> ApiError:
    """The error for an episode that a candidate's failure ended. The call was already retried if that could help."""
    calls = trajectory.transcript.calls
    failed = next(call for call in reversed(calls) if call.status.is_infrastructure)
    return ApiError(
        _VOID_STATUS[failed.status],
        f"the candidate {failed.model} could not be asked: {failed.error}",
        code=f"candidate_{failed.status.value}",
        routes=calls,
        retry=False,
    )


def _finish_reason(trajectory: Trajectory) -> str:
    return "length" if trajectory.transcript.stop_reason is StopReason.OUT_OF_TOKENS else "stop"


def _usage(trajectory: Trajectory) -> dict[str, int]:
    """Tokens of the policy: read (the prompt and the replies), and written."""
    written, total = int(trajectory.sampled.sum()), len(trajectory.token_ids)
    return {"prompt_tokens": total - written, "completion_tokens": written, "total_tokens": total}


def _refuse_unsupported(values: dict[str, Any]) -> None:
    for name in _IGNORED:
        values.pop(name, None)
    for name, neutral in _UNSUPPORTED.items():
        value = values.pop(name, None)
        if value is not None and value not in neutral:
            raise ApiError(
                400, f"{name}={value!r} is not supported; leave it out", code="unsupported_parameter", param=name
            )


def _invalid(error: ValidationError) -> ApiError:
    fault = error.errors()[0]
    param = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return ApiError(400, f"unknown option {param}; leave it out", code="unknown_parameter", param=param)
    if fault["type"] == "missing":
        return ApiError(400, f"{param} is missing; give it", code="missing_required_parameter", param=param)
    return ApiError(400, f"{param}: {fault['msg']}, got {fault['input']!r}", code="invalid_value", param=param)


def _question(messages: list[_Message]) -> str:
    content = next((message.content for message in reversed(messages) if message.role == "user"), None)
    if isinstance(content, list):
        odd = next((part.type for part in content if part.type != "text"), None)
        if odd is not None:
            raise ApiError(400, f"a content part of type {odd!r} is not supported; send text", param="messages")
        content = "\n".join(part.text for part in content)
    if not content or not content.strip():
        raise ApiError(400, "there is no question; the last user message must hold one", param="messages")
    # A lone surrogate is legal in JSON and breaks every tokenizer.
    return content.encode("utf-8", "replace").decode().strip()
