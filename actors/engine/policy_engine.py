"""The policy engine: one vLLM engine that samples from the current policy and takes new weights in flight."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import psutil  # type: ignore[import-untyped]

from actors.child_process import environment
from actors.engine.arguments import engine_arguments, engine_variables, sampling_params
from actors.engine.fork_server import engine_server_pid, fork_engines, start_engine_server
from actors.engine.generation import Generation
from actors.engine.scratch import Scratch
from actors.engine.state import EngineState, state_logger
from actors.errors import ExplainedError
from actors.settings import EngineSettings, SamplingSettings

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

T = TypeVar("T")


class EngineLost(ExplainedError, RuntimeError):
    """The engine's processes died or hang, so its requests are lost; the message says which. Start another engine."""


class EngineDied(EngineLost):
    """The engine's processes are gone."""


class EngineLate(ExplainedError, TimeoutError):
    """The engine was not ready in time; the message names the deadline and the remedy."""


_SHUTDOWN_GRACE_S = 20.0
_RECEPTION_POLL_S = 0.02
_ALIVE_EVERY_S = 0.5


class PolicyEngine:
    """One vLLM `AsyncLLM`, used from a single event loop.

    A weight update consists of `start_weight_update`, `update_weights` and `finish_weight_update`. Over gloo the
    engine generates until the last call, which pauses it only to exchange the weights. Over NCCL it is paused from the
    first call on. A pause freezes unfinished requests, which then continue with the new weights; requests that arrive
    during a pause wait.
    """

    def __init__(
        self,
        model: str | Path,
        settings: EngineSettings,
        *,
        version: int = 0,
        seed: int = 0,
        weight_backend: Literal["gloo", "nccl"],
        tell: Callable[[EngineState], None] | None = None,
    ) -> None:
        """`model` is a checkpoint folder with the weights of policy `version` and its tokenizer. `tell` is called with
        the engine's state after every step."""
        self.model = str(model)
        self.settings = settings
        self.version = version
        self.seed = seed
        self.weight_backend = weight_backend
        self._tell = tell
        self._llm: AsyncLLM | None = None
        self._paused_since: float | None = None
        self._children: list[psutil.Process] = []
        self._request_numbers = itertools.count()
        self._scratch: Scratch | None = None  # vLLM makes its sockets in it

    async def start(self) -> None:
        """Start the engine's processes and load the weights.

        Raises:
            EngineLate: the engine was not ready within `settings.start_timeout_s`.
        """
        deadline_s = self.settings.start_timeout_s
        start_engine_server(self.settings)
        before = set(_child_processes())
        try:
            self._scratch = Scratch()
            with environment(engine_variables(self.settings, self._scratch.path)):
                build = asyncio.ensure_future(asyncio.to_thread(self._build))
                try:
                    self._llm = await asyncio.wait_for(asyncio.shield(build), deadline_s)
                except BaseException:
                    await _end_build(build, before)
                    raise
            await asyncio.wait_for(self._alive(self._engine.update_weight_version(str(self.version))), deadline_s)
        except TimeoutError as error:
            raise EngineLate(
                f"the vLLM engine for {self.model} was not ready within start_timeout_s={deadline_s:g}; "
                "raise it, or look at the engine's log for what it waits on"
            ) from error
        finally:
            self._children = [p for p in _child_processes() if p not in before]
            if self._llm is None:
                self._tidy()

    async def shutdown(self) -> None:
        """Stop the engine and end all its processes; unfinished requests fail."""
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, _SHUTDOWN_GRACE_S)
        await asyncio.to_thread(_end_processes, self._children, _SHUTDOWN_GRACE_S)
        del llm
        gc.collect()  # the engine is in reference cycles; collected at interpreter exit, it would raise
        self._tidy()

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
        """Sample up to `max_tokens` tokens after `prompt_ids`; end with the first of the strings in `stop`.

        The text holds every sampled token, special ones too, up to the end of the stop string. `on_text`
        receives it piece by piece. Cancelling this coroutine aborts the request in the engine.

        Raises:
            EngineDied: the engine's processes are gone.
            EngineLost: the turn took longer than `settings.turn_timeout_s`.
            ValueError: the prompt and `max_tokens` do not fit in `max_model_len`.
        """
        params = sampling_params(max_tokens, stop, sampling, seed, streaming=on_text is not None)
        token_ids: list[int] = []
        logprobs: list[float] = []
        text: list[str] = []
        last: CompletionOutput | None = None
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async with self._deadline(f"sample a turn after {len(prompt_ids)} tokens", "turn_timeout_s"):
                async for output in self._engine.generate(self._prompt(prompt_ids), params, self._next_request_id()):
                    last = output.outputs[0]
                    token_ids += last.token_ids
                    logprobs += _sampled_logprobs(last)
                    text.append(last.text)
                    if on_text is not None and last.text:
                        on_text(last.text)
        except TimeoutError as error:
            raise EngineLost(str(error)) from error
        except EngineDeadError as error:
            raise EngineDied(self._death) from error
        if last is None or last.finish_reason not in ("stop", "length"):
            raise RuntimeError(
                f"the engine ended a request with finish_reason={last and last.finish_reason!r} in place of "
                "`stop` or `length`; it was aborted from inside the engine, see its log"
            )
        return Generation(
            token_ids=token_ids,
            logprobs=logprobs,
            versions=_token_versions(last, len(token_ids)),
            text="".join(text),
            finish_reason=last.finish_reason,
        )

    async def ping(self) -> None:
        """Return once the engine's processes have answered; they do so between two steps.

        Raises:
            EngineLost: the processes are gone, or did not answer within `settings.control_timeout_s`.
        """
        try:
            async with self._deadline("answer", "control_timeout_s"):
                await self._reception()
        except TimeoutError as error:
            raise EngineLost(str(error)) from error

    async def score(self, token_ids: list[int], *, timeout_s: float = 120.0) -> list[float]:
        """Log-probability (nats, temperature 1) of each token given those before it, `[T - 1]` for T tokens.

        Uses the current weights and does not read the prefix cache. Waits while the engine is paused.

        Raises:
            ValueError: fewer than two tokens, or `max_model_len` or more.
            TimeoutError: no result within `timeout_s` seconds.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        if not 2 <= len(token_ids) < self.settings.max_model_len:
            raise ValueError(
                f"score takes 2 to max_model_len-1={self.settings.max_model_len - 1} tokens, got {len(token_ids)}"
            )
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            flat_logprobs=True,
            skip_reading_prefix_cache=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            async with asyncio.timeout(timeout_s):
                async for output in self._engine.generate(self._prompt(token_ids), params, self._next_request_id()):
                    scores = output.prompt_logprobs
        except TimeoutError as error:
            raise TimeoutError(
                f"the engine did not score {len(token_ids)} tokens within {timeout_s:g} s; is it still paused?"
            ) from error
        # The first position has no prefix and therefore no entry.
        return [scores.logprobs[start] for start in scores.start_indices[1:]]

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        """Abandon an unfinished update, then join the learner's weight-sync group; returns once all have joined."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._alive(self._engine.collective_rpc("abandon_weight_update"))
        await self._alive(self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info)))

    async def start_weight_update(self) -> None:
        """Begin to receive weights. Over NCCL, pause first, because it overwrites the weights in use."""
        if self.weight_backend == "nccl":
            await self.pause()
        await self._alive(self._engine.start_weight_update())

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive the weights that the learner broadcasts.

        If this raises over gloo, the engine continues with its old weights; over NCCL it must be restarted.

        Raises:
            TimeoutError: the learner sent nothing within the time given to `init_weight_transfer`.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        # This loop needs no deadline: each wait of the reception has its own.
        while self.weight_backend == "gloo" and not (await self._reception())[1]:  # noqa: ASYNC110
            await asyncio.sleep(_RECEPTION_POLL_S)
        await self._alive(self._engine.update_weights(WeightTransferUpdateRequest(update_info)))

    async def reception_progress(self) -> int:
        """Buckets of weights that have arrived over gloo since `start_weight_update`."""
        return (await self._reception())[0]

    async def finish_weight_update(self, version: int) -> float:
        """Switch to the received weights, which are those of policy `version`. Returns the pause in seconds.

        Raises:
            TimeoutError: pause, switch or resume took longer than `settings.control_timeout_s`; the engine may stay
                paused.
        """
        if self._paused_since is None:
            await self.pause()
        async with self._deadline(f"use the weights of version {version}", "control_timeout_s"):
            await self._alive(self._engine.finish_weight_update(str(version)))
        self.version = version
        return await self.resume()

    async def pause(self) -> None:
        """Freeze all requests after the current step, and empty the key-value cache if `settings.recompute_kv`.

        Frozen requests keep their tokens. With an emptied cache, `resume` recomputes their prefixes with the weights
        then in use, so each token's log-probability is that of the version it is labelled with. With a kept cache,
        later tokens attend to keys and values of the previous version. Each weight version salts the prefix cache, so
        new requests never reuse another version's prefixes.
        """
        async with self._deadline("pause", "control_timeout_s"):
            await self._alive(self._engine.pause_generation(mode="keep", clear_cache=self.settings.recompute_kv))
        self._paused_since = time.perf_counter()

    async def resume(self) -> float:
        """Continue after `pause`; returns the seconds since the pause began, 0 if there was none."""
        async with self._deadline("resume", "control_timeout_s"):
            await self._alive(self._engine.resume_generation())
        began, self._paused_since = self._paused_since, None
        return 0.0 if began is None else time.perf_counter() - began

    async def _reception(self) -> tuple[int, bool]:
        """Buckets received by the slowest of the engine's workers, and whether no worker is still receiving."""
        workers = await self._alive(self._engine.collective_rpc("reception_progress"))
        return min(buckets for buckets, _ in workers), all(ended for _, ended in workers)

    async def _alive(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call to the engine's processes. If they die during the call, vLLM never ends it; this does.

        Raises:
            EngineDied: the processes are gone.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        task = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait([task], timeout=_ALIVE_EVERY_S))[0]:
                if self._engine.errored:
                    raise EngineDied(self._death)
            return task.result()
        except EngineDeadError as error:
            raise EngineDied(self._death) from error
        finally:
            task.cancel()

    @property
    def _death(self) -> str:
        return f"the engine's processes for {self.model} died; see its log"

    @asynccontextmanager
    async def _deadline(self, what: str, setting: str) -> AsyncIterator[None]:
        seconds = getattr(self.settings, setting)
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise TimeoutError(
                f"the engine for {self.model} did not {what} within engine.{setting}={seconds:g} s; raise it, or look "
                f"for what holds the engine up{' (it is paused)' if self._paused_since is not None else ''}"
            ) from error

    @property
    def _engine(self) -> AsyncLLM:
        if self._llm is None:
            raise RuntimeError("the policy engine is not running; await start() first")
        return self._llm

    def _build(self) -> AsyncLLM:
        from vllm.v1.engine.async_llm import AsyncLLM

        fork_engines()
        return AsyncLLM.from_engine_args(
            engine_arguments(self.model, self.settings, seed=self.seed, weight_backend=self.weight_backend),
            stat_loggers=[] if self._tell is None else [state_logger(self._tell)],
        )

    def _tidy(self) -> None:
        """Remove the files that the engine's processes left on disk."""
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _prompt(self, token_ids: list[int]) -> Any:
        from vllm.inputs.engine import tokens_input

        # Because of the salt, a newer version never reuses keys and values of an older one.
        return tokens_input(token_ids, cache_salt=f"version-{self.version}")

    def _next_request_id(self) -> str:
        return f"request-{next(self._request_numbers)}"


def _sampled_logprobs(output: CompletionOutput) -> list[float]:
    """The log-probability of each of the output's tokens; vLLM lists the sampled token first."""
    flat = output.logprobs
    found = [flat.logprobs[start] for start in flat.start_indices] if flat is not None else []
    if len(found) != len(output.token_ids):
        raise RuntimeError(f"vLLM returned {len(output.token_ids)} tokens with {len(found)} log-probabilities")
    return found


def _token_versions(output: CompletionOutput, tokens: int) -> list[int]:
    """The policy version of each of the request's `tokens` tokens, from the spans of its last output."""
    versions: list[int] = []
    for span in output.weight_versions or ():
        versions += [int(span.version)] * (span.end - span.start)
    if len(versions) != tokens:
        raise RuntimeError(f"vLLM labelled {len(versions)} of {tokens} tokens with the version that sampled them")
    return versions


def _child_processes() -> list[psutil.Process]:
    """The descendants of this process, except two that serve all engines: multiprocessing's resource tracker and the
    server that engines are forked from."""
    children = psutil.Process().children(recursive=True)
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    return [child for child in children if child.pid not in (tracker, engine_server_pid())]


async def _end_build(build: asyncio.Future[AsyncLLM], before: set[psutil.Process]) -> None:
    """End the processes of an engine whose start is abandoned, including those that it is still starting: the thread
    that starts it can't be stopped, but fails once they are gone."""
    while not build.done():
        _end_processes([process for process in _child_processes() if process not in before], grace_s=0)
        await asyncio.wait([build], timeout=_ALIVE_EVERY_S)
    if not build.cancelled() and build.exception() is None:  # the engine started after all
        await asyncio.to_thread(build.result().shutdown, _SHUTDOWN_GRACE_S)


def _end_processes(processes: list[psutil.Process], grace_s: float) -> None:
    """Wait `grace_s` seconds for the processes to end, then kill those left."""
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        log.warning("killing process %d of the engine, alive %g s after its shutdown", process.pid, grace_s)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue  # it ended just now
    psutil.wait_procs(alive, timeout=5)
