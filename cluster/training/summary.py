"""The summary: the results of a run, the baselines to compare them with, and its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.questions import Question
from benchmarks.baselines.world_bounds import baselines
from benchmarks.evaluation.methods import OF_RUN, UNSEEN, methods_of
from cluster.config.settings import Config
from cluster.runs.clock import Clock


def summarise_run(
    config: Config,
    facts: Mapping[str, Any],
    heldout: Sequence[Question],
    *,
    clock: Clock,
    usd_total: float,
    probe_max: float,
) -> dict[str, Any]:
    """The contents of `summary.json`. Results have the keys of `benchmarks.evaluation.methods`; `methods` defines them.

    Args:
        facts: the run's evaluations by name, and its other results.
        usd_total: USD spent on candidates.
        probe_max: largest difference between an engine and the learner on the probe, in nats.
    """
    found: dict[str, Any] = dict.fromkeys(OF_RUN) | dict(facts)
    if heldout and all(question.dataset.startswith("world-") for question in heldout):
        for cohort, suffix in (("seen", ""), ("unseen", UNSEEN)):
            for name, value in baselines(heldout, cohort, config.run.seed).items():  # type: ignore[arg-type]
                found[f"{name}{suffix}"] = value.as_dict()
    return {
        **found,
        "methods": {method.key: method.meaning for method in methods_of(found)},
        "seed": config.run.seed,
        "alpha": config.rewards.alpha,
        "steps": config.run.steps,
        "probe_max_diff": probe_max,
        "usd_total": usd_total,
        "seconds": {**clock.seconds, "total": clock.elapsed_s},
    }
