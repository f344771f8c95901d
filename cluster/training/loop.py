"""The control loop: draw questions, roll out, judge, learn, sync, evaluate, checkpoint, track."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.questions import Question
from actors.timeline import Timeline
from benchmarks.questions.sources import load_sources
from cluster.config.settings import Config
from cluster.episodes.candidates import Candidates, start_candidates
from cluster.episodes.source import QuestionSource
from cluster.runs.clock import Clock
from cluster.runs.folder import RunFolder
from cluster.runs.manifest import ResumeError, check_same_run, fingerprint
from cluster.runs.mirror import Mirror
from cluster.runs.policy_checkpoints import locate_checkpoint
from cluster.session.logs import log_to_file, stop_logging
from cluster.session.ray_session import ray_session
from cluster.session.watchdog import Watchdog
from cluster.tracking.run_log import RunLog
from cluster.tracking.terminal import Terminal
from cluster.tracking.wandb_run import Tracker
from cluster.training.batch_supply import Supply
from cluster.training.checkpoints import Checkpoints, CheckpointWriter, newest_manifest
from cluster.training.evaluations import Evaluations
from cluster.training.evaluator import Evaluator
from cluster.training.run import Run, RunParts
from cluster.training.run_state import RunState
from cluster.training.step_watch import StepWatch
from cluster.training.windows import Windows
from cluster.workers.run_actors import Crew
from rewards.presets import Judge


def train(config: Config, recipe: str, *, resume: bool = False, force: bool = False) -> Path:
    """Train a policy as configured; return the run folder. Ctrl-C stops after saving the newest step.

    Args:
        resume: continue the existing run of that name, from its newest checkpoint.
        force: resume even if settings differ that change the course of learning.

    Raises:
        ResumeError: the existing run can't be resumed with this configuration and these questions.
    """
    with ExitStack() as stack:
        questions = load_sources(
            config.data.train, limit=config.data.train_limit, two_hop_share=config.data.two_hop_share
        )
        heldout = load_sources(
            config.data.eval, total=config.data.eval_questions, two_hop_share=config.data.two_hop_share
        )
        checkpoint = locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")
        folder = _reopen(config, force) if resume else RunFolder.create(config, recipe)
        start = newest_manifest(folder) if resume else None
        if resume and start is None:
            folder.cut_after(-1)  # the run was stopped before its first checkpoint
        if start is not None and start[1].questions != fingerprint(questions):
            raise ResumeError(
                f"{folder.path} was trained on other questions than data.train gives now; restore those questions"
            )
        stack.callback(stop_logging, log_to_file(folder.log_file))
        mirror = _open_mirror(config, stack)
        terminal = stack.enter_context(Terminal(config.run.steps))
        terminal.announce(f"run folder: {folder.path}" + (f", going on from {start[0].name}" if start else ""))
        terminal.phase("start Ray, engines and learner")
        clock = Clock(start[1].elapsed_s if start else 0.0, Timeline(config.run.trace))
        with clock("start"):
            tracker = stack.enter_context(Tracker(config, folder.path, folder.run_id))
            candidates = stack.enter_context(start_candidates(config))
            stack.enter_context(ray_session(config.placement.address))
            crew = Crew(config, checkpoint, candidates.all, folder)
            stack.callback(crew.close)
        watchdog = Watchdog(folder.stalls_path, config.run.stall_s)
        stack.callback(watchdog.close)
        log = RunLog(folder, tracker, terminal, watchdog)
        source = QuestionSource(questions, config.run.seed)
        parts = _assemble(config, crew, candidates, source, heldout, log, clock, mirror)
        stack.callback(parts.watch.close)
        run = Run(config, parts, heldout)
        if start is not None:
            run.go_on(*start)
        summary = run.all_the_way()
        folder.write_summary(summary)
        tracker.finish(summary)
        if mirror is not None:
            mirror.begin(folder, folder.latest_checkpoint())
    terminal.finish(summary, folder.path, recipe, example=heldout[0].text if heldout else None)
    return folder.path


def _assemble(
    config: Config,
    crew: Crew,
    candidates: Candidates,
    source: QuestionSource,
    heldout: list[Question],
    log: RunLog,
    clock: Clock,
    mirror: Mirror | None,
) -> RunParts:
    """Build the parts of a run around its actors."""
    facts: dict[str, Any] = {}  # entries of the summary that are known before the run ends
    judge = Judge(candidates.price_rewards(config))
    windows = Windows(config, source, candidates.cards, crew.fleet)
    evaluator = Evaluator(config, crew, candidates, heldout, judge)
    evaluations = Evaluations(config.run, evaluator, log, clock, facts)
    state = RunState(source, windows, judge, evaluations, crew, clock, facts)
    writer = CheckpointWriter(crew.gang, log.folder, config.run.keep_checkpoints, mirror)
    return RunParts(
        crew=crew,
        candidates=candidates,
        windows=windows,
        supply=Supply(config.run, config.learner, crew, windows, judge),
        evaluations=evaluations,
        state=state,
        checkpoints=Checkpoints(writer, state, log.folder, clock),
        log=log,
        watch=StepWatch(config.engine, crew, clock.timeline, log.folder),
        clock=clock,
    )


def _open_mirror(config: Config, stack: ExitStack) -> Mirror | None:
    """The mirror of the run, None if none is configured; at its end, the stack waits for the mirror's copies."""
    if config.run.mirror is None:
        return None
    mirror = Mirror(f"{config.run.mirror.rstrip('/')}/{config.run.name}", config.run.keep_checkpoints)
    mirror.check()
    stack.callback(mirror.finish)
    return mirror


def _reopen(config: Config, force: bool) -> RunFolder:
    folder = RunFolder.reopen(config.run.folder / str(config.run.name))
    check_same_run(folder.read_config(), config, force=force)
    folder.replace_config(config)
    return folder
