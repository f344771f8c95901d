"""Evaluating a policy: its episodes are played, then the baselines beside it, as far as they can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from actors.pool.caller import CandidateCaller
from actors.pool.cards import ModelCard
from benchmarks.baseline_rows import UNTRAINED
from benchmarks.protocol import load_questions, passes
from cluster.candidates import start_candidates
from cluster.config import Config
from cluster.evaluation_assignment import Assignment
from cluster.evaluation_folder import EvaluationFolder
from cluster.evaluation_policy import ChatPolicy, EnginePolicy, Policy, Waiting, episodes_of, play_all
from cluster.evaluation_sum import Evaluation, Say, Told, check_answerable, what_is_asked
from cluster.evaluation_target import Target, open_target, pool_notes
from cluster.ledger_place import prepare_ledger
from cluster.live_contest import policy_contest
from cluster.run_id import keep_run_id
from cluster.untrained_rows import plan_untrained


def evaluate_policy(assignment: Assignment, names: Sequence[str], say: Say, told: Told) -> Path:
    """Evaluate a checkpoint or a model at a URL, and the baselines named; see `cluster.evaluate.evaluate`."""
    target = open_target(assignment)
    config = target.config
    questions = load_questions(
        assignment.protocol,
        assignment.datasets or config.data.eval,
        limit=assignment.limit,
        two_hop_share=config.data.two_hop_share,
    )
    check_answerable(questions, config.candidates.serve)
    planned = passes(assignment.protocol, assignment.samples)
    out = assignment.out or config.run.folder / "evaluations" / f"{target.file_name}-{assignment.protocol}"
    with start_candidates(config) as candidates:
        cards = candidates.cards
        rules = config.episode.model_dump(mode="json") | {
            "menus": config.run.seed,
            "policy_usd_per_million": [assignment.price_in, assignment.price_out],
        }
        folder = EvaluationFolder(out, what_is_asked(assignment, questions, cards, policy=target.identity, rules=rules))
        untrained = plan_untrained(target, names, planned, questions, cards, asked_for=assignment.baselines)
        notes = [*pool_notes(target, cards), *untrained.notes]
        for note in notes:
            say(f"note: {note}")
        rows = tuple(each.row for each in planned)
        evaluation = Evaluation(assignment, questions, cards, folder, target.identity, rows, notes)
        try:
            untrained.keep_to_player(folder)
            episodes = episodes_of(config, planned, questions, cards)
            if untrained.player is target:
                episodes += untrained.episodes
            _play(target, episodes, evaluation, say, told)
            if untrained.player is not target:
                _play(untrained.player, untrained.episodes, evaluation, say, told)
            baselines = list(untrained.rows)
            if tabled := [name for name in names if name not in UNTRAINED]:
                found = policy_contest(
                    config, questions, cards, assignment, lambda: _hire(config, cards, folder), say, told
                )
                notes += found.notes
                evaluation.spent_usd = max(evaluation.spent_usd, found.spent_usd)
                if found.contest is not None:
                    baselines += evaluation.run_baselines(tabled, found.contest, told)
            evaluation.finish(baselines)
        finally:
            folder.close()
    return out


def _play(target: Target, episodes: Sequence[Waiting], evaluation: Evaluation, say: Say, told: Told) -> None:
    """Play the episodes that have no item yet."""
    folder, assignment = evaluation.folder, evaluation.assignment
    waiting = [each for each in episodes if each.key not in folder.items]
    done = len(episodes) - len(waiting)
    if done:
        say(f"{done} of {len(episodes)} episodes were played before")
    if not waiting:
        evaluation.spent_usd = max(evaluation.spent_usd, folder.spent_before())
        return
    caller = _hire(target.config, evaluation.cards, folder)

    def tell() -> None:
        nonlocal done
        done += 1
        evaluation.spent_usd = float(sum(caller.stats().usd.values()))
        told(done, len(episodes), evaluation.spent_usd)

    policy = _policy(target, evaluation.cards, caller)
    concurrency = assignment.concurrency or target.concurrency
    asyncio.run(play_all(policy, waiting, folder, concurrency=concurrency, told=tell))


def _policy(target: Target, cards: Sequence[ModelCard], caller: CandidateCaller) -> Policy:
    if target.endpoint is not None:
        return ChatPolicy(target.endpoint, target.config, caller)
    assert target.source is not None
    return EnginePolicy(target.source, cards, caller)


def _hire(config: Config, cards: Sequence[ModelCard], folder: EvaluationFolder) -> CandidateCaller:
    """A caller whose calls have stable places in the folder's ledger, so that none is paid for twice."""
    pool = config.candidates.pool
    if pool.ledger == "off":
        return CandidateCaller(cards, pool)
    run = keep_run_id(folder.run_id_file, f"evaluation-{folder.path.resolve().name}")
    return CandidateCaller(cards, pool, ledger_url=pool.ledger_url or prepare_ledger(folder.ledger), run=run)
