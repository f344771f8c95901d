"""The rollout worker: a Ray actor around one vLLM engine, running many episodes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal

from actors.checkpoint_loading import read_tokenizer
from actors.engine.admission import Admission
from actors.engine.fork_server import start_engine_server
from actors.engine.generation import Generation
from actors.engine.policy_engine import EngineDied, EngineLost
from actors.episodes.episode import Episode, EpisodeRequest, Unfinished
from actors.episodes.trajectory import Trajectory
from actors.heavy_imports import heavy_imports
from actors.load import LoadReading
from actors.pool.calls import CallRequest
from actors.pool.pool import CandidatePool
from actors.settings import EngineSettings, EpisodeSettings
from actors.stacks import Whereabouts, whereabouts
from actors.timeline import Slice, Timeline
from rewards.transcript import RouteCall


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker has been doing."""

    generating: LoadReading
    target: int  # sequences that its engine is to generate at a time: fewer than it may where they don't fit in memory
    slices: Sequence[Slice]  # since the last report


class RolloutWorker:
    """Episodes run as coroutines on the actor's event loop; weight updates come in between their tokens.

    Made an actor by whoever places it. The weight-sync methods are those that `WeightSender` calls.
    """

    def __init__(
        self,
        checkpoint: str,
        engine: EngineSettings,
        episode: EpisodeSettings,
        pool: CandidatePool,
        weight_backend: Literal["gloo", "nccl"],
        seed: int,
        trace: bool = False,
    ) -> None:
        start_engine_server(engine)
        # Frames of vLLM's import stay alive with what they hold: not the engine, where it is imported before.
        with heavy_imports():
            import_module("vllm.v1.engine.async_llm")
        from actors.engine.policy_engine import PolicyEngine

        self.checkpoint = checkpoint
        self._make_engine = partial(PolicyEngine, checkpoint, engine, seed=seed, weight_backend=weight_backend)
        self._begin(engine.max_num_seqs)
        # What a replay's ledger lacks it lacks the second time, too.
        retries = pool.settings.ledger != "replay"
        self.episode = episode if retries else episode.without_retries()
        self.pool = pool
        self.timeline = Timeline(trace)

    def _begin(self, max_num_seqs: int) -> None:
        """An engine that is not started yet, and nobody on it."""
        self.admission = Admission(max_num_seqs)
        self.engine = self._make_engine(tell=self.admission.hear)
        self._played: dict[str, Episode | Trajectory] = {}  # of rollouts that are not over, or ended with the engine

    async def start(self, pause_s: float = 0.0) -> Whereabouts:
        """Load tokenizer and engine, `pause_s` seconds from now; returns where they are.

        Raises:
            TimeoutError: the engine was not ready in `start_timeout_s`.
        """
        await asyncio.sleep(pause_s)
        self.tokenizer = await asyncio.to_thread(read_tokenizer, self.checkpoint)
        await self.engine.start()
        return whereabouts()

    async def restart(self, pause_s: float = 0.0) -> Whereabouts:
        """Start another engine in place of one whose processes died: cheaper than another worker, which would have to
        import vLLM anew. What was played on the old one ends with `EngineDied`, if it has not yet.

        Raises:
            TimeoutError: the engine was not ready in `start_timeout_s`.
        """
        old = self.engine
        self._begin(old.settings.max_num_seqs)
        await old.shutdown()
        await asyncio.sleep(pause_s)
        await self.engine.start()
        return whereabouts()

    async def ping(self) -> None:
        """Return once the engine has answered.

        Raises:
            EngineLost: it is gone, or hangs.
        """
        await self.engine.ping()

    async def rollout(self, episodes: Sequence[EpisodeRequest | Unfinished]) -> list[Trajectory]:
        """Run episodes to their ends; they start as the engine has room, and then none waits for another.

        Raises:
            PromptTooLong, LedgerError, PoolError: an episode's; the others were cancelled.
            EngineLost: the engine died or hangs; `salvage` tells what they had come to. Their calls are not cancelled:
                they are paid for, and whoever plays the episodes on gets the replies.
        """
        played = self._played
        tasks = [asyncio.ensure_future(self._play(episode)) for episode in episodes]
        try:
            trajectories = await asyncio.gather(*tasks)
        except EngineLost:
            raise
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            _forget(played, episodes)
            raise
        _forget(played, episodes)
        return trajectories

    async def salvage(self) -> dict[str, Trajectory | Unfinished]:
        """What the episodes of rollouts that are not over have come to, by name; those not begun are left out."""
        return {
            name: played.so_far() if isinstance(played, Episode) else played for name, played in self._played.items()
        }

    async def _play(self, job: EpisodeRequest | Unfinished) -> Trajectory:
        request, timeline = _request(job), self.timeline
        engine, played = self.engine, self._played  # a restart puts others in their place
        async with self.admission.episode() as place:
            with (
                timeline.lane("episodes") as row,
                timeline.slice("episode", row, question=request.question.id, group=request.group) as facts,
            ):

                async def generate(prompt_ids: list[int], **options: Any) -> Generation:
                    async with place.turn():
                        if engine is not self.engine:
                            raise EngineDied("the episode's engine died, and another has taken its place")
                        with timeline.slice("turn", row, context_tokens=len(prompt_ids)) as told:
                            generation = await engine.generate(prompt_ids, **options)
                            told |= {"tokens": len(generation.token_ids), "version": engine.version}
                            return generation

                episode = Episode(
                    request,
                    tokenizer=self.tokenizer,
                    generate=generate,
                    ask=self._ask,
                    settings=self.episode,
                    max_model_len=engine.settings.max_model_len,
                    begun=job if isinstance(job, Unfinished) else None,
                )
                played[request.episode] = episode
                trajectory = played[request.episode] = await episode.run()
                facts["stop_reason"] = str(trajectory.transcript.stop_reason)
                return trajectory

    async def _ask(self, request: CallRequest) -> RouteCall:
        with self.timeline.lane("calls") as row, self.timeline.slice(request.model, row) as facts:
            call = await self.pool.ask(request)
            facts |= {"status": str(call.status), "attempts": call.attempts, "usd": call.cost_usd}
            return call

    async def report(self) -> WorkerReport:
        """How many sequences have been generating and are to, and the slices of the trace since the last report."""
        return WorkerReport(self.admission.load.read(), self.admission.target, self.timeline.take())

    async def score(self, token_ids: list[int]) -> list[float]:
        return await self.engine.score(token_ids)

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        await self.engine.init_weight_transfer(init_info)

    async def start_weight_update(self) -> None:
        await self.engine.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        await self.engine.update_weights(update_info)

    async def reception_progress(self) -> int:
        return await self.engine.reception_progress()

    async def finish_weight_update(self, version: int) -> float:
        paused_s = await self.engine.finish_weight_update(version)
        self.timeline.add("pause", "engine", paused_s, version=version)
        return paused_s

    async def shutdown(self) -> None:
        """Stop the engine; leaves no process behind."""
        await self.engine.shutdown()


def _forget(played: dict[str, Episode | Trajectory], episodes: Sequence[EpisodeRequest | Unfinished]) -> None:
    for job in episodes:
        played.pop(_request(job).episode, None)


def _request(job: EpisodeRequest | Unfinished) -> EpisodeRequest:
    return job.request if isinstance(job, Unfinished) else job
