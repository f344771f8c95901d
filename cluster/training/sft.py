"""Supervised fine-tuning (`router-r1 sft`): a policy learns from demonstrations, on the learner gang of training."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray.util.placement_group import remove_placement_group

from actors.checkpoint_loading import read_tokenizer
from cluster.config.loading import ConfigError
from cluster.config.settings import Config
from cluster.runs.checkpoint_folder import check_checkpoint
from cluster.runs.clock import Clock
from cluster.runs.folder import RunFolder
from cluster.runs.metrics import from_learner
from cluster.runs.policy_checkpoints import locate_checkpoint
from cluster.session.logs import log_to_file, stop_logging
from cluster.session.ray_session import ray_session
from cluster.tracking.run_log import RunLog
from cluster.tracking.terminal import Terminal, called_as
from cluster.tracking.wandb_run import Tracker
from cluster.training.evaluations import is_due
from cluster.workers.placement import rank_bundles, reserve
from learner.demonstrations import DemonstrationEncoder, load_demonstrations
from learner.gang import LearnerGang
from learner.sft import SftExample, deal, hold_out


def fine_tune(config: Config, recipe: str) -> Path:
    """Fine-tune a policy as configured; return the run folder. Ctrl-C stops after saving the newest step.

    Raises:
        ConfigError: no demonstrations are named, or too few to hold some out.
        DemonstrationError: the demonstrations can't be used.
        RunFolderError: the run folder can't be made or written.
        TrackingError, CrewError, PlacementError, LearnerError: W&B, Ray or the learner could not be started.
    """
    with ExitStack() as stack:
        checkpoint = locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")
        train, heldout = _read_examples(config, checkpoint)
        steps = config.sft.epochs * config.sft.steps_per_epoch(len(train))
        folder = RunFolder.create(config, recipe, command="sft")
        stack.callback(stop_logging, log_to_file(folder.log_file))
        terminal = stack.enter_context(Terminal(steps))
        terminal.announce(f"run folder: {folder.path}")
        terminal.announce(f"{len(train)} demonstrations to learn, {len(heldout)} held out; {steps} steps")
        terminal.phase("start Ray and learner")
        clock = Clock()
        with clock("start"):
            tracker = stack.enter_context(Tracker(config, folder.path))
            gang = _start_gang(config, checkpoint, steps, stack)
        run = SftRun(config, RunLog(folder, tracker, terminal), gang, clock)
        summary = run.all_the_way(train, heldout)
        folder.write_summary(summary)
        tracker.finish(summary)
    terminal.announce(_describe(summary))
    terminal.announce(
        f"The run is in {folder.path}. What to type next:\n"
        f"  {called_as()} train {recipe} policy.checkpoint={folder.latest_checkpoint()}"
    )
    return folder.path


def _read_examples(config: Config, checkpoint: Path) -> tuple[list[SftExample], list[SftExample]]:
    """The examples to learn and those held out, in the policy's tokens."""
    if not config.sft.demonstrations:
        raise ConfigError(
            "sft.demonstrations is empty; set sft.demonstrations=FILE, such as `router-r1 demonstrate` writes"
        )
    demonstrations = load_demonstrations(config.sft.demonstrations)
    # Importing transformers takes seconds, so a fault in the file is reported before.
    encoder = DemonstrationEncoder(read_tokenizer(checkpoint), config.engine.max_model_len)
    examples = encoder.encode_all(demonstrations)
    try:
        return hold_out(examples, config.sft.heldout_share, config.run.seed)
    except ValueError as error:
        raise ConfigError(f"sft.demonstrations={', '.join(map(str, config.sft.demonstrations))}: {error}") from error


def _start_gang(config: Config, checkpoint: Path, steps: int, stack: ExitStack) -> LearnerGang:
    settings = config.sft.learner_settings(config.learner, steps)
    stack.enter_context(ray_session(config.placement.address))
    wanted = rank_bundles(config)
    placement = reserve(config, wanted)
    stack.callback(remove_placement_group, placement)
    gang = LearnerGang(
        settings.model_copy(update={"seed": settings.seed + config.run.seed}),
        checkpoint=checkpoint,
        temperature=1.0,  # demonstrations were not sampled from this policy
        placement=placement,
        bundles=range(settings.ranks),
        cpus_per_rank=wanted[0].resources["CPU"],
    )
    stack.callback(gang.shutdown)
    return gang


class SftRun:
    """A run of supervised fine-tuning under way."""

    def __init__(self, config: Config, log: RunLog, gang: LearnerGang, clock: Clock) -> None:
        self.config = config
        self.folder = log.folder
        self.log = log
        self.gang = gang
        self.clock = clock
        self.tokens_trained = 0

    def all_the_way(self, train: list[SftExample], heldout: list[SftExample]) -> dict[str, Any]:
        """Measure, train every epoch and measure after each; return the summary."""
        settings, step = self.config.sft, 0
        try:
            before = after = self._measure(0, heldout)
            self.log.record(0, before)
            for epoch in range(1, settings.epochs + 1):
                batches = deal(train, settings.demonstrations_per_step, self.config.run.seed, epoch)
                for place, batch in enumerate(batches, 1):
                    step += 1
                    row = self._learn(step, batch) | {"sft/epoch": float(epoch)}
                    ends = place == len(batches)
                    if is_due(step, self.config.run.checkpoint_every) or (ends and epoch == settings.epochs):
                        row["time/checkpoint_s"] = self._checkpoint(step)
                    if ends:
                        after = self._measure(step, heldout)
                        row |= after
                    self.log.record(step, row)
        except KeyboardInterrupt:
            self._save_what_was_learnt()
            raise
        return {
            "loss_before": before.get("sft/heldout_loss"),
            "loss_after": after.get("sft/heldout_loss"),
            "demonstrations": len(train),
            "heldout": len(heldout),
            "epochs": settings.epochs,
            "steps": step,
            "tokens_trained": self.tokens_trained,
            "seed": self.config.run.seed,
            "seconds": {**self.clock.seconds, "total": self.clock.elapsed_s},
        }

    def _learn(self, step: int, batch: list[SftExample]) -> dict[str, float]:
        began = time.monotonic()
        self.log.phase(step, "learn")
        with self.clock("learn"):
            learnt = self.gang.fine_tune(batch)
        self.tokens_trained += int(learnt["tokens_trained"])
        loss = learnt.pop("loss")
        timed = {"time/step_s": time.monotonic() - began, "time/elapsed_s": self.clock.elapsed_s}
        return {"sft/loss": loss, **from_learner(learnt), **timed}

    def _measure(self, step: int, heldout: list[SftExample]) -> dict[str, float]:
        """The loss on the held-out demonstrations, in nats per policy token; empty if there are none."""
        if not heldout:
            return {}
        self.log.phase(step, "measure held-out demonstrations")
        with self.clock("measure"):
            return {"sft/heldout_loss": self.gang.measure_nll(heldout)}

    def _checkpoint(self, step: int) -> float:
        """Save the policy; return the seconds it took."""
        self.log.phase(step, "checkpoint")
        with self.clock("checkpoint") as lap, self.folder.new_checkpoint(step) as stage:
            self.gang.save_pretrained(stage)
            check_checkpoint(stage)  # a rank on another node may have written to that node's own disk
        self.folder.prune(self.config.run.keep_checkpoints)
        return lap.seconds

    def _save_what_was_learnt(self) -> None:
        """Write a checkpoint of the newest step, unless there is one."""
        step = self.gang.batches_trained()
        if step > 0 and not self.folder.checkpoint(step).exists():
            self._checkpoint(step)


def _describe(summary: dict[str, Any]) -> str:
    """The result of the run, in one line."""
    if summary["loss_before"] is None:
        return f"{summary['steps']} steps, {summary['tokens_trained']} policy tokens; nothing was held out to measure"
    return (
        f"{summary['steps']} steps, {summary['tokens_trained']} policy tokens; held-out loss "
        f"{summary['loss_before']:.4f} -> {summary['loss_after']:.4f} nats per policy token"
    )
