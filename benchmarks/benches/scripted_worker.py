"""The scripted worker: stands where a rollout worker does, and plays episodes from scripts, without an engine.

What it returns is like what a rollout worker returns, and as large: 150 to 300 tokens, one to three turns, a call after
each but the last. Its module loads neither torch nor vllm, so that such actors start fast.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from actors.episodes.episode import EpisodeRequest
from actors.episodes.trajectory import NOT_SAMPLED, TokenBuffer, Trajectory
from actors.settings import EpisodeSettings
from rewards.grammar import parse_turn
from rewards.transcript import CallStatus, RouteCall, StopReason, Transcript, Turn

SCRIPTS = 64  # of a worker: more than a group has members, so that no two of them share an array
TURNS, PROMPT_TOKENS, TURN_TOKENS, REPLY_TOKENS, VOCAB = (1, 3), (110, 120), (40, 46), (16, 20), 4096
AHEAD = 1  # windows that are played before the learner wants them
_MODELS = ("geologist", "historian", "poet", "chemist")


@dataclass(frozen=True, slots=True)
class Script:
    """An episode but for what its request says: the searches, what was replied, and arrays `[T]`."""

    searches: tuple[Turn, ...]
    thought: str  # before the answer
    token_ids: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]


def write_script(seed: int) -> Script:
    """The script of a seed."""
    rng = random.Random(seed)
    buffer, searches = TokenBuffer(), []
    buffer.extend_context(_tokens(rng, PROMPT_TOKENS))
    for _ in range(rng.randint(*TURNS) - 1):
        _sample(rng, buffer)
        buffer.extend_context(_tokens(rng, REPLY_TOKENS))
        model, query = rng.choice(_MODELS), f"what is known of {rng.randrange(VOCAB)} ?"
        text = f"<think> {_prose(rng)} </think> <search> {model}: {query} </search>"
        blocks, faults = parse_turn(text)
        reply, usd = _prose(rng), rng.uniform(1e-5, 1e-3)
        call = RouteCall(model, model, query, CallStatus.OK, reply, 20, 16, usd, rng.random(), raw_cost=16.0)
        searches.append(Turn(text, blocks, (call,), faults))
    _sample(rng, buffer)
    return Script(
        tuple(searches),
        _prose(rng),
        np.asarray(buffer.token_ids, np.int64),
        np.asarray(buffer.sampled, np.bool_),
        np.asarray(buffer.logprobs, np.float32),
    )


def play(script: Script, request: EpisodeRequest) -> Trajectory:
    """The trajectory of a request; every other answer, by its seed, is right."""
    right = random.Random(request.seed).random() < 0.5
    text = f"<think> {script.thought} </think> <answer> {request.question.answers[0] if right else '?'} </answer>"
    blocks, faults = parse_turn(text)
    version = max(request.step - 1 - AHEAD, 0)
    return Trajectory(
        question=request.question,
        group=request.group,
        seed=request.seed,
        token_ids=script.token_ids,
        sampled=script.sampled,
        logprobs=script.logprobs,
        versions=np.where(script.sampled, version, NOT_SAMPLED),
        transcript=Transcript((*script.searches, Turn(text, blocks, (), faults)), StopReason.ANSWERED),
        prompt=request.prompt(EpisodeSettings(prompt="compact")),
        wall_s=0.0,
        budget_usd=request.budget_usd,
    )


class ScriptedWorker:
    """What `cluster.workers.fleet.Fleet` calls of a `RolloutWorker`. Made an actor by whoever places it."""

    def __init__(self, index: int) -> None:
        self._scripts = [write_script(index * SCRIPTS + number) for number in range(SCRIPTS)]

    async def start(self, pause_s: float = 0.0) -> None:
        """Return `pause_s` seconds from now: there is no engine to load."""
        await asyncio.sleep(pause_s)

    async def ping(self) -> None:
        """Return: there is no engine to ask."""

    async def rollout(self, requests: list[EpisodeRequest]) -> list[Trajectory]:
        """The episodes, at once."""
        return [play(self._scripts[request.seed % SCRIPTS], request) for request in requests]

    async def salvage(self) -> dict[str, Trajectory]:
        """Nothing is under way for long enough."""
        return {}

    async def shutdown(self) -> None:
        """There is nothing to stop."""


def _tokens(rng: random.Random, bounds: tuple[int, int]) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(rng.randint(*bounds))]


def _sample(rng: random.Random, buffer: TokenBuffer) -> None:
    tokens = _tokens(rng, TURN_TOKENS)
    buffer.extend_sampled(tokens, [-rng.random() for _ in tokens], [0] * len(tokens))


def _prose(rng: random.Random) -> str:
    """About as many words as `TURN_TOKENS` has room for."""
    return " ".join(f"w{rng.randrange(VOCAB)}" for _ in range(30))
