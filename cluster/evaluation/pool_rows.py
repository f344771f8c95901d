"""The sum over pool variants: the bounds of each pool, by tables where there are any, and the table of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.questions import Question
from benchmarks.baselines.contests import changed_contest, world_contest
from benchmarks.baselines.rows import BaselineRow, Contest, make_rows
from benchmarks.evaluation.item import Item
from benchmarks.evaluation.methods import BEST_CONSTANT_TRAINING, CHEAPEST_RIGHT, METHODS
from benchmarks.evaluation.pool_fingerprint import card_facts, fingerprint
from benchmarks.evaluation.pool_table import BOUNDS, Played, Pool, PoolTable, pool_rows
from benchmarks.evaluation.reply_table import ReplyTableError
from benchmarks.world.experts import experts_of
from cluster.config.settings import Config
from cluster.evaluation.evaluation_run import EvaluationRun
from cluster.evaluation.live_contest import kept_contest
from cluster.evaluation.pool_variants import SEEN, PoolVariant

_BOUNDS = " and ".join(METHODS[key].name for key in BOUNDS)
_NO_TABLE = (
    f"{_BOUNDS} are told where there is a table of everyone's replies: of the world and of "
    "recorded replies, and with --ask-everyone of the candidates as trained"
)


def sum_pools(
    evaluation: EvaluationRun, variants: Sequence[PoolVariant], config: Config, as_trained: Contest | None
) -> PoolTable:
    """Make the bounds of each pool that are not in the folder yet, and sum up all rows of the policy.

    Args:
        as_trained: the contest among the candidates as trained, if there is one already.

    Raises:
        EvaluationError: a row came to nothing.
        RepliesError: recorded replies can't be read.
        RunFolderError: the folder's bounds were made of other replies.
    """
    notes = [note for variant in variants for note in variant.notes]
    bounds: dict[str, Mapping[str, Sequence[Item]]] = {}  # by pool, then by name
    try:
        if config.candidates.serve == "recorded" and as_trained is None:
            as_trained = kept_contest(config, evaluation.questions, evaluation.folder)
        for variant in variants:
            contest = _contest(evaluation.questions, variant, config, as_trained)
            if contest is not None:
                bounds[variant.label] = _bounds(evaluation, variant, contest)
        if len(bounds) < len(variants):
            notes.append(_NO_TABLE)
    except ReplyTableError as error:
        notes.append(f"{_BOUNDS} are left out: {error}")
    by_row: dict[str, list[Item]] = {}
    for item in evaluation.folder.items.values():
        by_row.setdefault(item.row, []).append(item)
    lost = evaluation.folder.lost()
    played = [
        Played(
            pool=variant.label,
            row=row,
            items=by_row.get(variant.row(row), ()),
            lost=lost[variant.row(row)],
            as_trained=() if variant.label == SEEN else by_row.get(row, ()),
            cheapest_right=bounds.get(variant.label, {}).get(CHEAPEST_RIGHT, ()),
            best_constant_training=bounds.get(variant.label, {}).get(BEST_CONSTANT_TRAINING, ()),
        )
        for variant in variants
        for row in evaluation.policy_rows
    ]
    if failed := sum(each.lost for each in played if each.pool != SEEN):
        notes.append(
            f"{failed} episodes with other candidates failed (failures.jsonl); the same command plays them again"
        )
    return PoolTable(
        pools=[Pool(variant.label, fingerprint(variant.cards), card_facts(variant.cards)) for variant in variants],
        rows=pool_rows(played, evaluation.options.resamples),
        notes=notes,
    )


def _contest(
    questions: Sequence[Question], variant: PoolVariant, config: Config, as_trained: Contest | None
) -> Contest | None:
    """The contest among the candidates of a variant, if there are tables of their replies."""
    if config.candidates.serve == "world":
        return world_contest(questions, experts_of(variant.cards))
    names = [card.name for card in variant.cards]
    if as_trained is None or not set(names) <= set(as_trained.test.names):
        return None
    return changed_contest(as_trained, names, variant.factors)


def _bounds(evaluation: EvaluationRun, variant: PoolVariant, contest: Contest) -> dict[str, list[Item]]:
    """The items of the bounds of a pool; those that are not in the folder yet are made."""
    folder = evaluation.folder
    rows = {name: variant.row(name) for name in BOUNDS}
    keys = [(question.dataset, question.id, 0) for question in contest.questions]
    open_ = [
        BaselineRow(name, 0.0) for name, row in rows.items() if any((row, *key) not in folder.items for key in keys)
    ]
    for _, items, _ in make_rows(contest, open_, evaluation.options.seed):
        for item in items:
            folder.add(replace(item, row=variant.row(item.row)))
    return {name: [folder.items[row, *key] for key in keys] for name, row in rows.items()}
