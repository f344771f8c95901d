"""Evaluating (`router-r1 evaluate`): a policy and the baselines on the same questions, item by item, to one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.baselines.comparison import EMBEDDED
from benchmarks.baselines.contests import recorded_contest, world_contest
from benchmarks.baselines.embedding import check_embedding
from benchmarks.baselines.router import HASHING
from benchmarks.baselines.rows import UNTRAINED, chosen_names
from benchmarks.evaluation.protocol import load_questions
from cluster.evaluation.evaluation_run import EvaluationRun, Say, TellProgress, check_answerable, what_is_asked
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import RECORDED, WORLD, EvaluateError, EvaluationOptions


def evaluate(options: EvaluationOptions, say: Say, told: TellProgress) -> Path:
    """Evaluate, and return the folder with items, numbers and table; what is there already is not asked again.

    Raises:
        EvaluateError, EvaluationError: options contradict each other, or nothing came of it.
        RunFolderError: the folder or the checkpoint can't be used.
        QuestionError, RepliesError, ReplyTableError, RouterError: questions, replies or baselines can't be had.
        PoolError, LedgerError, RemoteModelError, BudgetSpent, and others of `play_all`.
    """
    options.check()
    names = chosen_names(options.baselines)
    if options.embedding != HASHING:
        if not set(names) & set(EMBEDDED):
            raise EvaluateError(
                f"--embedding {options.embedding} with --baselines {','.join(options.baselines)}: none of these "
                f"embeds questions, as {', '.join(EMBEDDED)} do; leave it out, or name one of them"
            )
        check_embedding(options.embedding)
    if options.is_table:
        return _evaluate_tables(options, names, told)
    from cluster.evaluation.evaluate_policy import evaluate_policy  # imports what asks candidates

    return evaluate_policy(options, names, say, told)


def _evaluate_tables(options: EvaluationOptions, names: Sequence[str], told: TellProgress) -> Path:
    names = [name for name in names if name not in UNTRAINED]
    if not names:
        raise EvaluateError(
            f"--baselines {','.join(options.baselines)} with {options.target} leaves no row, for no model plays "
            "there; name others, or all"
        )
    if options.target == WORLD:
        sets = options.datasets or ("world:heldout",)
        questions = load_questions(options.protocol, sets, limit=options.limit)
        check_answerable(questions, WORLD)
        contest, name = world_contest(questions), WORLD
    else:
        file = Path(options.target.removeprefix(RECORDED))
        contest = recorded_contest(file, options.datasets, options.protocol, limit=options.limit, seed=options.seed)
        name = file.stem
    cards, questions = contest.test.cards, list(contest.questions)
    out = options.out or Path("runs") / "evaluations" / f"{name}-{options.protocol}"
    # Items of other replies are none of this evaluation, though their questions be the same.
    rules = {"replies": contest.test.digest, "learnt_from": contest.train.digest}
    folder = EvaluationFolder(out, what_is_asked(options, questions, cards, policy="", rules=rules))
    try:
        notes = [f"{len(contest.train)} questions to learn from; {contest.test.note}"]
        if options.target != WORLD:
            notes.append("right is what the file says is right, where it does: a judgement or a score, not exact match")
        if unplayed := [name for name in options.baselines if name in UNTRAINED]:
            notes.append(f"{', '.join(unplayed)} left out: no model plays with {options.target}")
        evaluation = EvaluationRun(options, questions, cards, folder, "", (), notes)
        evaluation.finish(evaluation.run_baselines(names, contest, told))
    finally:
        folder.close()
    return out
