"""Evaluating a policy: its episodes are played, then the baselines beside it, as far as they can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from actors.pool.cards import ModelCard
from benchmarks.baselines.rows import UNTRAINED
from benchmarks.evaluation.protocol import load_questions, passes
from cluster.episodes.candidates import start_candidates
from cluster.evaluation.episodes import EvaluationEpisode, ItemKeeper
from cluster.evaluation.evaluation_run import EvaluationRun, Say, TellProgress, check_answerable, what_is_asked
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.live_contest import policy_contest
from cluster.evaluation.options import EvaluationOptions
from cluster.evaluation.playing import play_all
from cluster.evaluation.pool_rows import sum_pools
from cluster.evaluation.pool_variants import asked_of, cards_to_ask, make_variants, read_wishes, variant_episodes
from cluster.evaluation.spending import Spending
from cluster.evaluation.target import Target, open_target, pool_notes
from cluster.evaluation.untrained_rows import plan_untrained
from cluster.players.players import ChatPolicy, EnginePolicy, Policy


def evaluate_policy(options: EvaluationOptions, names: Sequence[str], say: Say, told: TellProgress) -> Path:
    """Evaluate a checkpoint or a model at a URL, and the named baselines; see `evaluation.evaluate.evaluate`."""
    wishes = read_wishes(options.pools)
    target = open_target(options)
    config = target.config
    questions = load_questions(
        options.protocol,
        options.datasets or config.data.eval,
        limit=options.limit,
        two_hop_share=config.data.two_hop_share,
    )
    check_answerable(questions, config.candidates.serve)
    planned = passes(options.protocol, options.samples, options.budgets_usd)
    out = options.out or config.run.folder / "evaluations" / f"{target.file_name}-{options.protocol}"
    with start_candidates(config) as candidates:
        cards = candidates.cards
        compact = target.endpoint is None and config.episode.prompt == "compact"
        variants = make_variants(wishes, candidates, whole_dollars=compact and config.candidates.serve == "world")
        rules = config.episode.model_dump(mode="json") | {
            "menus": config.run.seed,
            "max_model_len": config.engine.max_model_len,
            "policy_usd_per_million": [options.price_in, options.price_out],
        }
        asked = what_is_asked(options, questions, cards, policy=target.identity, rules=rules)
        folder = EvaluationFolder(out, asked | asked_of(variants))
        unbudgeted = passes(options.protocol, options.samples)
        untrained = plan_untrained(target, names, unbudgeted, questions, cards, asked_for=options.baselines)
        notes = [*pool_notes(target, cards), *untrained.notes]
        if options.budgets_usd and not config.episode.budgets_usd:
            notes.append(
                "the policy was not trained with budgets (episode.budgets_usd is empty), and may not heed them"
            )
        for note in notes:
            say(f"note: {note}")
        rows = tuple(each.row for each in planned)
        evaluation = EvaluationRun(options, questions, cards, folder, target.identity, rows, notes)
        try:
            untrained.keep_to_player(folder)
            spending = Spending(config, folder)
            episodes = [each for variant in variants for each in variant_episodes(config, planned, questions, variant)]
            to_ask = cards_to_ask(variants, candidates)
            if untrained.player is target:
                episodes += untrained.episodes
            _play(target, episodes, evaluation, spending, to_ask, say, told)
            if untrained.player is not target:
                _play(untrained.player, untrained.episodes, evaluation, spending, cards, say, told)
            baselines = list(untrained.rows)
            contest = None
            if tabled := [name for name in names if name not in UNTRAINED]:
                found = policy_contest(config, questions, cards, options, folder, spending, say, told)
                notes += found.notes
                evaluation.spent_usd = spending.usd
                if (contest := found.contest) is not None:
                    baselines += evaluation.run_baselines(tabled, contest, told)
            pools = sum_pools(evaluation, variants, config, contest) if len(variants) > 1 else None
            evaluation.finish(baselines, pools)
        finally:
            folder.close()
    return out


def _play(
    target: Target,
    episodes: Sequence[EvaluationEpisode],
    evaluation: EvaluationRun,
    spending: Spending,
    to_ask: Sequence[ModelCard],
    say: Say,
    told: TellProgress,
) -> None:
    """Play the episodes that have no item yet."""
    evaluation.spent_usd = spending.usd
    folder, options = evaluation.folder, evaluation.options
    waiting = [each for each in episodes if each.key not in folder.items]
    done = len(episodes) - len(waiting)
    if done:
        say(f"{done} of {len(episodes)} episodes were played before")
    if not waiting:
        return

    def tell() -> None:
        nonlocal done
        done += 1
        evaluation.spent_usd = spending.add_up()
        told(done, len(episodes), evaluation.spent_usd)

    engines = min(options.engines, len(waiting))
    concurrency = options.concurrency or target.concurrency * engines
    if options.engines > 1:
        say(f"{engines} engines play {len(waiting)} episodes, {min(concurrency, len(waiting))} at a time")
    with _player(target, engines, evaluation, spending, to_ask) as policy:
        asyncio.run(play_all(policy, waiting, ItemKeeper(folder, tell), concurrency=concurrency))


@contextmanager
def _player(
    target: Target, engines: int, evaluation: EvaluationRun, spending: Spending, to_ask: Sequence[ModelCard]
) -> Iterator[Policy]:
    """What plays the target, and asks these candidates."""
    if target.endpoint is not None:
        yield ChatPolicy(target.endpoint, target.config, spending.hire(to_ask))
        return
    assert target.source is not None
    if evaluation.options.engines == 1:
        yield EnginePolicy(target.source, evaluation.cards, spending.hire(to_ask))
        return
    from cluster.players.fleet_player import engine_fleet  # imports what places and trains, too

    stalls = evaluation.folder.path / "stalls"
    with engine_fleet(target.source, engines, lambda: spending.start_pool(to_ask), stalls) as policy:
        yield policy
