"""The pools of an evaluation's report: the same policy with other candidates, each against what its own pool allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.pool_table import BOUNDS
from benchmarks.evaluation.tables import Column, Table
from cluster.evaluation.record import EvaluationRecord
from cluster.report.evaluation_tables import number
from cluster.report.page import Section
from cluster.report.run_tables import percent
from cluster.runs.files import RunFolderError

Json = Mapping[str, Any]


def pools_section(record: EvaluationRecord) -> Section | None:
    """The policy with each pool of candidates, side by side; None where there was one pool alone.

    Raises:
        RunFolderError: what the evaluation tells of them is damaged.
    """
    found = record.pools
    if found is None:
        return None
    try:
        tables = [_played(found), _pools(found)]
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{record.path / 'evaluation.json'}: pools are damaged ({error!r}); evaluate again by the same command, "
            "which plays nothing twice"
        ) from error
    right, constant = (METHODS[key] for key in BOUNDS)
    lead = (
        f"The same questions with other candidates: each row against the {right.name} and the {constant.name} of its "
        "own pool, and against the policy's row with the candidates as trained. "
        f"The {right.name} {right.meaning}. The {constant.name} {constant.meaning}."
    )
    return Section("With other candidates", "pools", lead, tables=tables)


def _played(found: Json) -> Table:
    columns = [
        Column("Pool", numeric=False), Column("Row", numeric=False), Column("Exact match", "%, 95 % interval"),
        Column("Price", "USD per 1k"), Column("Cheapest right", "%"), Column("Of its exact match", "%, 95 % interval"),
        Column("Best constant in training", numeric=False), Column("Its exact match", "%"),
        Column("Against it", "points, 95 %"),
        Column("p", "Holm"), Column("Against as trained", "points, 95 %"), Column("p", "Holm"),
    ]  # fmt: skip
    rows = [
        [
            str(row["pool"]), str(row["row"]), _interval(row["summary"]["em"]),
            number(row["summary"]["usd_per_1k"] + row["summary"]["policy_usd_per_1k"]),
            _share(row["cheapest_right_em"]), _interval(row["of_cheapest_right"]),
            row["best_constant_training"], _share(row["best_constant_training_em"]),
            *_against(row["against_best_constant_training"]), *_against(row["against_trained"]),
        ]
        for row in found["rows"]
    ]  # fmt: skip
    return Table("The policy with each pool", columns, rows)


def _pools(found: Json) -> Table:
    """Candidates with their prices in each pool: what differs between pools is seen in a line."""
    pools = found["pools"]
    names = list(dict.fromkeys(name for pool in pools for name in pool["cards"]))
    columns = [Column("Candidate", numeric=False), *(Column(pool["label"], pool["fingerprint"]) for pool in pools)]
    rows = [[name, *(_prices(pool["cards"].get(name)) for pool in pools)] for name in names]
    return Table("Their candidates: USD per million tokens in / out", columns, rows, folded=len(names) > 6)


def _prices(card: Json | None) -> str | None:
    return None if card is None else f"{card['price_in_usd_per_mtok']:g} / {card['price_out_usd_per_mtok']:g}"


def _share(value: float | None) -> str | None:
    return None if value is None else percent(value)


def _interval(value: Json | None, form: str = ".1f") -> str | None:
    if value is None or value["mean"] is None:
        return None
    mean, low, high = (
        None if value[name] is None else f"{100 * value[name]:{form}}" for name in ("mean", "low", "high")
    )
    return f"{mean}" + (f" ({low} to {high})" if low is not None else "")


def _against(found: Json | None) -> tuple[str | None, str | None]:
    if found is None:
        return None, None
    gap = _interval(found["comparison"]["difference"], "+.1f")
    return None if gap is None else gap.replace("-", "−"), f"{found['p_holm']:.2g}"
