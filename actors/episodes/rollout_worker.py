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
    """A worker's load, and its slices of the trace."""

    generating: LoadReading
    target: int  # sequences that should generate at a time: below the engine's limit if more don't fit in memory
    slices: Sequence[Slice]  # since the last report


class RolloutWorker:
    """Runs episodes as coroutines on the actor's event loop; weight updates happen between their tokens.

    A plain class, which its user makes a Ray actor. `WeightSender` calls the weight-sync methods.
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
        # Import vLLM before building the engine. Otherwise the import's stack frames keep a reference to the engine
        # and it is never freed.
        with heavy_imports():
            import_module("vllm.v1.engine.async_llm")
        from actors.engine.policy_engine import PolicyEngine

        self.checkpoint = checkpoint
        self._make_engine = partial(PolicyEngine, checkpoint, engine, seed=seed, weight_backend=weight_backend)
        self._begin(engine.max_num_seqs)
        # A call that a replay's ledger lacks is missing on a retry, too.
        retries = pool.settings.ledger != "replay"
        self.episode = episode if retries else episode.without_retries()
        self.pool = pool
        self.timeline = Timeline(trace)

    def _begin(self, max_num_seqs: int) -> None:
        """Make an engine, not started yet, that plays no episodes."""
        self.admission = Admission(max_num_seqs)
        self.engine = self._make_engine(tell=self.admission.hear)
        self._played: dict[str, Episode | Trajectory] = {}  # of rollouts that run, or that a lost engine ended

    async def start(self, pause_s: float = 0.0) -> Whereabouts:
        """After `pause_s` seconds, load the tokenizer and start the engine; returns the actor's whereabouts.

        Raises:
            TimeoutError: the engine was not ready in `start_timeout_s`.
        """
        await asyncio.sleep(pause_s)
        self.tokenizer = await asyncio.to_thread(read_tokenizer, self.checkpoint)
        await self.engine.start()
        return whereabouts()

    async def restart(self, pause_s: float = 0.0) -> Whereabouts:
        """Start another engine in place of one whose processes died. This is cheaper than another worker, which would
        import vLLM again. Episodes that still play on the old engine end with `EngineDied`.

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
            EngineLost: the engine is gone, or hangs.
        """
        await self.engine.ping()

    async def rollout(self, episodes: Sequence[EpisodeRequest | Unfinished]) -> list[Trajectory]:
        """Run episodes to their ends. Each starts when the engine has room, and then never waits for another.

        Raises:
            PromptTooLong, LedgerError, PoolError: an episode raised it; the others were cancelled.
            EngineLost: the engine died or hangs; `salvage` returns the episodes' progress. Their calls are not
                cancelled: they are paid for, and the worker that continues the episodes gets the replies.
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
        """The progress of the episodes of unfinished rollouts, by name; episodes that have not begun are left out."""
        return {
            name: played.so_far() if isinstance(played, Episode) else played for name, played in self._played.items()
        }

    async def _play(self, job: EpisodeRequest | Unfinished) -> Trajectory:
        request, timeline = _request(job), self.timeline
        engine, played = self.engine, self._played  # a restart replaces both
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
        """The load of sequences that generate, the target, and the slices of the trace since the last report."""
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
        """Stop the engine and end all its processes."""
        await self.engine.shutdown()


def _forget(played: dict[str, Episode | Trajectory], episodes: Sequence[EpisodeRequest | Unfinished]) -> None:
    for job in episodes:
        played.pop(_request(job).episode, None)


def _request(job: EpisodeRequest | Unfinished) -> EpisodeRequest:
    return job.request if isinstance(job, Unfinished) else job
