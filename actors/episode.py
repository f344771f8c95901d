"""The episode: think, route, read, answer; one coroutine from a question to a trajectory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.generation import Generation
from actors.menu import Menu
from actors.pool.calls import CallRequest
from actors.prompt import FAILED_CALL, LAST_TURN, invalid_route_feedback, render_information, render_prompt
from actors.questions import Question
from actors.settings import EpisodeSettings, SamplingSettings
from actors.trajectory import TokenBuffer, Trajectory
from rewards.grammar import STOPS, neutralise, parse_route, parse_turn
from rewards.transcript import Block, BlockKind, CallStatus, RouteCall, StopReason, Transcript, Turn

_CHARACTERS_PER_TOKEN = 32  # more than any tokenizer packs into one of its tokens, on average over a text


class PromptTooLong(ValueError):
    """The prompt leaves the policy no token to write; the message names question, lengths and remedy."""


class Generate(Protocol):
    """The policy: continues token ids (see `PolicyEngine.generate`)."""

    def __call__(
        self,
        prompt_ids: list[int],
        *,
        max_tokens: int,
        stop: list[str],
        sampling: SamplingSettings,
        seed: int | None,
        on_text: Callable[[str], None] | None = None,
    ) -> Awaitable[Generation]: ...


Ask = Callable[[CallRequest], Awaitable[RouteCall]]


class Observer(Protocol):
    """Watches an episode as it happens."""

    def on_text(self, text: str) -> None:
        """The policy has written this much more."""

    def on_call(self, call: RouteCall) -> None:
        """A candidate was asked, and this came of it."""

    def on_read(self, text: str) -> None:
        """The policy reads this next: a reply between its tags, maybe cut, or why there is none."""


@dataclass(frozen=True, slots=True)
class EpisodeRequest:
    """One episode to run."""

    question: Question
    menu: Menu
    group: str
    seed: int
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    step: int = 0  # batch of the run; 0 in evaluation and outside a run

    @property
    def episode(self) -> str:
        """Names the episode in its run."""
        return f"{self.group}/{self.seed}"


class Episode:
    """Runs one episode. Tokens only ever go in as they came out: nothing is decoded and encoded again."""

    def __init__(
        self,
        request: EpisodeRequest,
        *,
        tokenizer: Any,
        generate: Generate,
        ask: Ask,
        settings: EpisodeSettings,
        max_model_len: int,
        observer: Observer | None = None,
    ) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self.generate = generate
        self.ask = ask
        self.settings = settings
        self.max_model_len = max_model_len
        self.observer = observer
        self.buffer = TokenBuffer()
        self.turns: list[Turn] = []

    async def run(self) -> Trajectory:
        """Play until an answer, the last turn, or an end of tokens; candidates' failures void the episode.

        Raises:
            PromptTooLong: the prompt alone fills `max_model_len`.
        """
        started = time.monotonic()
        request = self.request
        prompt = render_prompt(self.settings.prompt, request.menu, request.question.text, self.settings.max_rounds)
        self.buffer.extend_context(encode_chat(self.tokenizer, prompt))
        if len(self.buffer) >= self.max_model_len:
            raise PromptTooLong(
                f"question {request.question.id!r}: the prompt takes {len(self.buffer)} tokens of "
                f"engine.max_model_len={self.max_model_len} and leaves none to write; raise engine.max_model_len, "
                "list fewer candidates or shorten the question"
            )
        reason: StopReason | None = None
        while reason is None:
            reason = await self._play_turn()
        return Trajectory.freeze(
            self.buffer,
            question=request.question,
            group=request.group,
            seed=request.seed,
            transcript=Transcript(tuple(self.turns), reason),
            prompt=prompt,
            wall_s=time.monotonic() - started,
        )

    async def _play_turn(self) -> StopReason | None:
        """Sample one turn and act on it; return why the episode is over, or None."""
        room = self.max_model_len - len(self.buffer)
        if room <= 0:
            return StopReason.OUT_OF_TOKENS
        generation = await self.generate(
            self.buffer.token_ids,
            max_tokens=min(self.settings.max_turn_tokens, room),
            stop=list(STOPS),
            sampling=self.request.sampling,
            seed=self.request.seed * 16 + len(self.turns),
            on_text=self.observer.on_text if self.observer else None,
        )
        self.buffer.extend_sampled(generation.token_ids, generation.logprobs, generation.versions)
        blocks, faults = parse_turn(generation.text)
        search = next((b for b in blocks if b.kind is BlockKind.SEARCH and b.closed), None)
        if search is None or any(b.kind is BlockKind.ANSWER and b.closed for b in blocks):
            self.turns.append(Turn(generation.text, blocks, faults=faults))
            return _ending(blocks, generation)
        if len(self.turns) >= self.settings.max_rounds:
            self.turns.append(Turn(generation.text, blocks, faults=faults))
            return StopReason.OUT_OF_ROUNDS
        call = await self._route(search)
        self.turns.append(Turn(generation.text, blocks, call, faults))
        if self.observer:
            self.observer.on_call(call)
        if call.status.is_infrastructure:
            return StopReason.VOID
        self._read(call)
        return None

    async def _route(self, search: Block) -> RouteCall:
        """Ask the candidate that a search block names."""
        route = parse_route(search.text)
        requested, query = route or (search.text.partition(":")[0].strip(), "")
        item = self.request.menu.find(requested) if route else None
        if item is None:
            error = f"no candidate of that name in the menu: {requested!r}"
            return RouteCall(requested, None, query, CallStatus.INVALID_ROUTE, error=error)
        return await self.ask(
            CallRequest(
                model=item.card.name,
                requested=requested,
                query=query,
                question_id=self.request.question.id,
                max_tokens=min(item.card.max_output_tokens, self.settings.max_reply_tokens),
                seed=self.request.seed,
                step=self.request.step,
                episode=self.request.episode,
                turn=len(self.turns),
            )
        )

    def _read(self, call: RouteCall) -> None:
        """Append what the policy reads after a route: the reply, and the notice that its routes are used up."""
        reply = call.reply
        if call.status is CallStatus.INVALID_ROUTE:
            reply = invalid_route_feedback(call.requested, self.request.menu)
        elif call.status is not CallStatus.OK:
            reply = FAILED_CALL
        text = render_information(self._cut(reply))
        if len(self.turns) >= self.settings.max_rounds:
            text += LAST_TURN + "\n"
        if self.observer:
            self.observer.on_read(text)
        self.buffer.extend_context(self._encode(text))

    def _cut(self, reply: str) -> str:
        """The beginning of a reply that takes `max_reply_tokens` or fewer, harmless to parser and tokenizer.

        Measured as it is read: without its tags, whose pieces are several tokens. The text itself is cut, as
        tokens that are decoded and encoded again may become more.
        """
        most = self.settings.max_reply_tokens
        # Tokenizers refuse lone surrogates, which JSON may hold.
        text = neutralise(reply.encode("utf-8", "replace").decode())[: _CHARACTERS_PER_TOKEN * most]
        while (tokens := len(self._encode(text))) > most:
            text = text[: len(text) * most // tokens]
        return text

    def _encode(self, text: str) -> list[int]:
        """Token ids of text that the policy reads; special tokens that it spells out stay plain (invariant 5)."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def encode_chat(tokenizer: Any, message: str) -> list[int]:
    """Token ids of a user message under the policy's own chat template, ready for its reply."""
    return list(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )


async def run_episodes(episodes: list[Episode]) -> list[Trajectory]:
    """Run episodes at once, none waiting for another; if one raises, the others are cancelled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(episode.run()) for episode in episodes]
    return [task.result() for task in tasks]


def _ending(blocks: tuple[Block, ...], generation: Generation) -> StopReason:
    if any(b.kind is BlockKind.ANSWER and b.closed for b in blocks):
        return StopReason.ANSWERED
    return StopReason.OUT_OF_TOKENS if generation.finish_reason == "length" else StopReason.NO_ACTION
