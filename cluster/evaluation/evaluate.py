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
from cluster.evaluation.evaluation_run import EvaluationSum, Say, Told, check_answerable, what_is_asked
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import RECORDED, WORLD, Assignment, EvaluateError


def evaluate(assignment: Assignment, say: Say, told: Told) -> Path:
    """Evaluate, and return the folder with items, numbers and table; what is there already is not asked again.

    Raises:
        EvaluateError, EvaluationError: options contradict each other, or nothing came of it.
        RunFolderError: the folder or the checkpoint can't be used.
        QuestionError, RepliesError, ReplyTableError, RouterError: questions, replies or baselines can't be had.
        PoolError, LedgerError, RemoteModelError, BudgetSpent, and others of `play_all`.
    """
    assignment.check()
    names = chosen_names(assignment.baselines)
    if assignment.embedding != HASHING:
        if not set(names) & set(EMBEDDED):
            raise EvaluateError(
                f"--embedding {assignment.embedding} with --baselines {','.join(assignment.baselines)}: none of these "
                f"embeds questions, as {', '.join(EMBEDDED)} do; leave it out, or name one of them"
            )
        check_embedding(assignment.embedding)
    if assignment.is_table:
        return _evaluate_tables(assignment, names, told)
    from cluster.evaluation.evaluate_policy import evaluate_policy  # imports what asks candidates

    return evaluate_policy(assignment, names, say, told)


def _evaluate_tables(assignment: Assignment, names: Sequence[str], told: Told) -> Path:
    names = [name for name in names if name not in UNTRAINED]
    if not names:
        raise EvaluateError(
            f"--baselines {','.join(assignment.baselines)} with {assignment.target} leaves no row, for no model plays "
            "there; name others, or all"
        )
    if assignment.target == WORLD:
        sets = assignment.datasets or ("world:heldout",)
        questions = load_questions(assignment.protocol, sets, limit=assignment.limit)
        check_answerable(questions, WORLD)
        contest, name = world_contest(questions), WORLD
    else:
        file = Path(assignment.target.removeprefix(RECORDED))
        contest = recorded_contest(
            file, assignment.datasets, assignment.protocol, limit=assignment.limit, seed=assignment.seed
        )
        name = file.stem
    cards, questions = contest.test.cards, list(contest.questions)
    out = assignment.out or Path("runs") / "evaluations" / f"{name}-{assignment.protocol}"
    # Items of other replies are none of this evaluation, though their questions be the same.
    rules = {"replies": contest.test.digest, "learnt_from": contest.train.digest}
    folder = EvaluationFolder(out, what_is_asked(assignment, questions, cards, policy="", rules=rules))
    try:
        notes = [f"{len(contest.train)} questions to learn from; {contest.test.note}"]
        if assignment.target != WORLD:
            notes.append("right is what the file says is right, where it does: a judgement or a score, not exact match")
        if unplayed := [name for name in assignment.baselines if name in UNTRAINED]:
            notes.append(f"{', '.join(unplayed)} left out: no model plays with {assignment.target}")
        evaluation = EvaluationSum(assignment, questions, cards, folder, "", (), notes)
        evaluation.finish(evaluation.run_baselines(names, contest, told))
    finally:
        folder.close()
    return out
