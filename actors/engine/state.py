"""The engine's state after a step: running and waiting requests, and how full the key-value cache is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_FULL = 0.9  # share of the cache; in a fuller cache, waiting requests wait for memory


@dataclass(frozen=True, slots=True)
class EngineState:
    """Statistics of vLLM's scheduler."""

    running: int  # requests of the last step
    waiting: int  # new requests, and requests that were evicted from the cache
    cache_usage: float  # share of the cache that running requests hold

    @property
    def crowded(self) -> bool:
        """True if requests wait for memory: one more would evict a running request, to be recomputed later."""
        return self.waiting > 0 and self.cache_usage >= _FULL


def state_logger(tell: Callable[[EngineState], None]) -> Callable[..., Any]:
    """A factory for vLLM's `stat_loggers`: `tell` is called after every step, in the client's event loop."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class StateLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, *others: Any, **named: Any) -> None:
            if scheduler_stats is not None:
                tell(
                    EngineState(
                        running=scheduler_stats.num_running_reqs,
                        waiting=scheduler_stats.num_waiting_reqs,
                        cache_usage=scheduler_stats.kv_cache_usage,
                    )
                )

        def log_engine_initialized(self) -> None:
            pass

    return StateLogger
