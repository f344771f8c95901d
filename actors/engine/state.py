"""The engine's state after a step: what runs, what waits, and how full its cache of keys and values is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_FULL = 0.9  # of the cache: from here on what waits, waits for memory


@dataclass(frozen=True, slots=True)
class EngineState:
    """What vLLM's scheduler tells of itself."""

    running: int  # requests of the last step
    waiting: int  # new ones, and those that were driven out of the cache
    cache_usage: float  # share of the cache that running requests hold

    @property
    def crowded(self) -> bool:
        """Whether requests wait for memory: another would drive out one that runs, to be computed anew later."""
        return self.waiting > 0 and self.cache_usage >= _FULL


def state_logger(tell: Callable[[EngineState], None]) -> Callable[..., Any]:
    """A factory for vLLM's `stat_loggers`; `tell` hears of every step, in the event loop of the engine's client."""
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
