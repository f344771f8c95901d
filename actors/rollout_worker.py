"""The rollout worker: a Ray actor around one vLLM engine, running many episodes at once."""

from __future__ import annotations

import asyncio
import os
from importlib import import_module
from typing import Any, Literal

from actors.admission import Admission
from actors.episode import Episode, EpisodeRequest
from actors.generation import Generation
from actors.pool.pool import CandidatePool
from actors.settings import EngineSettings, EpisodeSettings
from actors.together import run_together
from actors.trajectory import Trajectory


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
    ) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # vLLM reads it as it is imported
        # Frames of vLLM's import stay alive with what they hold: not the engine, where it is imported before.
        import_module("vllm.v1.engine.async_llm")
        from actors.policy_engine import PolicyEngine

        self.checkpoint = checkpoint
        self.engine = PolicyEngine(checkpoint, engine, seed=seed, weight_backend=weight_backend)
        # What a replay's ledger lacks it lacks the second time, too.
        retries = pool.settings.ledger != "replay"
        self.episode = episode if retries else episode.without_retries()
        self.pool = pool
        self.admission = Admission(engine.max_num_seqs)

    async def start(self, pause_s: float = 0.0) -> None:
        """Load tokenizer and engine, `pause_s` seconds from now.

        Raises:
            TimeoutError: the engine was not ready in `start_timeout_s`.
        """
        from transformers import AutoTokenizer

        await asyncio.sleep(pause_s)
        self.tokenizer = await asyncio.to_thread(AutoTokenizer.from_pretrained, self.checkpoint)
        await self.engine.start()

    async def ping(self) -> None:
        """Return once the engine has answered.

        Raises:
            EngineLost: it is gone, or hangs.
        """
        await self.engine.ping()

    async def rollout(self, requests: list[EpisodeRequest]) -> list[Trajectory]:
        """Run episodes to their ends; they start as the engine has room, and then none waits for another.

        Raises:
            PromptTooLong, LedgerError, PoolError: an episode's; the others were cancelled.
            EngineLost: the engine died or hangs.
        """
        return await run_together(self._play(request) for request in requests)

    async def _play(self, request: EpisodeRequest) -> Trajectory:
        async with self.admission.episode() as place:

            async def generate(*arguments: Any, **options: Any) -> Generation:
                async with place.turn():
                    return await self.engine.generate(*arguments, **options)

            episode = Episode(
                request,
                tokenizer=self.tokenizer,
                generate=generate,
                ask=self.pool.ask,
                settings=self.episode,
                max_model_len=self.engine.settings.max_model_len,
            )
            return await episode.run()

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
        return await self.engine.finish_weight_update(version)

    async def shutdown(self) -> None:
        """Stop the engine; leaves no process behind."""
        await self.engine.shutdown()
