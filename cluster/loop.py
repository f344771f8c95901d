"""The control loop: draw questions, roll out, judge, learn, sync, evaluate, checkpoint, track."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.questions import Question
from benchmarks.evaluation import Evaluation, evaluate
from benchmarks.question_sets import load_sources
from benchmarks.world.baselines import baselines
from cluster.batch import BudgetSpent, RolloutError, admit, batch_metrics, judge_all, pool_metrics, spent_cap
from cluster.candidates import Candidates, start_candidates
from cluster.clock import Clock
from cluster.config import Config
from cluster.crew import Crew, ray_session
from cluster.logs import log_to_file, stop_logging
from cluster.metrics import from_learner
from cluster.plot import plot_run
from cluster.policies import locate_checkpoint
from cluster.requests import evaluation_requests, training_requests
from cluster.run_folder import RunFolder, check_checkpoint
from cluster.source import QuestionSource
from cluster.terminal import Terminal
from cluster.tracking import Tracker
from rewards.presets import Judge


def train(config: Config, recipe: str) -> Path:
    """Train a policy as configured; return the run folder. Ctrl-C stops after saving what was learnt."""
    with ExitStack() as stack:
        questions = load_sources(
            config.data.train, limit=config.data.train_limit, two_hop_share=config.data.two_hop_share
        )
        heldout = load_sources(
            config.data.eval, total=config.data.eval_questions, two_hop_share=config.data.two_hop_share
        )
        checkpoint = locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")
        folder = RunFolder.create(config, recipe)
        stack.callback(stop_logging, log_to_file(folder.log_file))
        terminal = stack.enter_context(Terminal(config.run.steps))
        terminal.announce(f"run folder: {folder.path}")
        terminal.phase("start Ray, engines and learner")
        clock = Clock()
        with clock("start"):
            tracker = stack.enter_context(Tracker(config, folder.path))
            candidates = stack.enter_context(start_candidates(config))
            stack.enter_context(ray_session(config.placement.address))
            crew = Crew(config, checkpoint, candidates.all, folder)
            stack.callback(crew.close)
        run = Run(config, folder, tracker, terminal, crew, candidates, clock, heldout)
        summary = run.all_the_way(QuestionSource(questions, config.run.seed))
        folder.write_summary(summary)
        tracker.finish(summary)
    terminal.finish(summary, folder.path, recipe, example=heldout[0].text if heldout else None)
    return folder.path


class Run:
    """A run under way."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        tracker: Tracker,
        terminal: Terminal,
        crew: Crew,
        candidates: Candidates,
        clock: Clock,
        heldout: list[Question],
    ) -> None:
        self.config = config
        self.folder = folder
        self.tracker = tracker
        self.terminal = terminal
        self.crew = crew
        self.candidates = candidates
        self.clock = clock
        self.heldout = heldout
        self.judge = Judge(candidates.price_rewards(config))
        self.probe_max = crew.check_probe()
        self.first_ratio: float | None = None
        self.spent_cap: str | None = None  # why no more money may be spent

    def all_the_way(self, source: QuestionSource) -> dict[str, Any]:
        """Evaluate, train every step, evaluate again; return the summary."""
        steps = self.config.run.steps
        try:
            before = after = self._evaluate("evaluate before training")
            self._record(0, _eval_row(before))
            for step in range(1, steps + 1):
                row = self._train_step(step, source)
                if step == steps or _due(step, self.config.run.checkpoint_every):
                    row["time/checkpoint_s"] = self._checkpoint(step)
                if step == steps or _due(step, self.config.run.eval_every):
                    after = self._evaluate("evaluate")
                    row |= _eval_row(after)
                self._record(step, row)
                if self.spent_cap:
                    raise BudgetSpent(self.spent_cap)
        except (KeyboardInterrupt, RolloutError):
            self._save_what_was_learnt()
            raise
        except BudgetSpent as spent:
            self._save_what_was_learnt()
            raise BudgetSpent(f"{spent}. {self.folder.how_to_go_on()}") from None
        if steps == 0:
            self._checkpoint(0)
        plot_run(self.folder.read_metrics(), self.folder.plot_file)
        return self._summary(before, after)

    def _train_step(self, step: int, source: QuestionSource) -> dict[str, float]:
        """One batch: its trajectories are those of the current policy, so every one of them counts."""
        config, crew, began = self.config, self.crew, time.monotonic()
        questions = source.draw(config.run.groups_per_step)
        self.terminal.phase("roll out")
        with self.clock("rollout") as rolled:
            trajectories = crew.rollout(training_requests(config, step, questions, self.candidates.cards))
        judged = judge_all(trajectories, self.judge)
        self.folder.write_trajectories(step, "train", judged[: config.run.sample_trajectories])
        self.spent_cap = spent_cap(trajectories)  # what was paid for is still learnt from
        batch = admit(judged, version=crew.version, max_staleness=config.run.max_staleness)
        self.terminal.phase("learn")
        with self.clock("learn"):
            learnt = crew.gang.train_step(batch)
        self.terminal.phase("sync")
        with self.clock("sync") as synced:
            probe = crew.sync(step)
        self.probe_max = max(self.probe_max, probe)
        if self.first_ratio is None:
            self.first_ratio = learnt.get("ratio_max_deviation")  # a batch that was skipped has none
        return {
            **batch_metrics(judged, rolled.seconds),
            **from_learner(learnt),
            "sync/probe_max_diff": probe,
            "policy/version": crew.version,
            "rollout/staleness": step - 1 - min(t.oldest_version for t in batch),
            **pool_metrics(crew.pool.stats()),
            "time/sync_s": synced.seconds,
            "time/step_s": time.monotonic() - began,
            "time/elapsed_s": self.clock.elapsed_s,
        }

    def _evaluate(self, phase: str, *, unseen: bool = False) -> Evaluation | None:
        """Ask the held-out questions; None where the recipe has none."""
        if not self.heldout:
            return None
        self.terminal.phase(phase)
        cards = self.candidates.unseen if unseen else self.candidates.cards
        requests = evaluation_requests(
            self.config, self.crew.version, self.heldout, cards, "unseen" if unseen else "seen"
        )
        with self.clock("evaluate"):
            trajectories = self.crew.rollout(requests)
        if cap := spent_cap(trajectories):
            raise BudgetSpent(cap)
        judged = judge_all(trajectories, self.judge)
        label = "eval-unseen" if unseen else "eval"
        self.folder.write_trajectories(self.crew.version, label, judged[: self.config.run.sample_trajectories])
        return evaluate(judged)

    def _checkpoint(self, step: int) -> float:
        """Save the policy; return the seconds it took."""
        self.terminal.phase("checkpoint")
        with self.clock("checkpoint") as lap, self.folder.new_checkpoint(step) as stage:
            self.crew.gang.save_pretrained(stage)
            check_checkpoint(stage)  # on another node's own disk it would be missing here
        self.folder.prune(self.config.run.keep_checkpoints)
        return lap.seconds

    def _save_what_was_learnt(self) -> None:
        """On the way out: a checkpoint of the newest step, unless there is one."""
        step = self.crew.gang.batches_trained()  # may be one more than the engines have
        if step > 0 and not self.folder.checkpoint(step).exists():
            self._checkpoint(step)

    def _record(self, step: int, row: dict[str, float]) -> None:
        self.folder.append_metrics({"step": step, **row})
        self.tracker.log(step, row)
        self.terminal.step(step, row)

    def _summary(self, before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
        """What was learnt, what it is to be compared with, and what it took."""
        names = ("oracle", "best_single", "random")
        found: dict[str, Evaluation | None] = {"before": before, "after": after, **dict.fromkeys(names)}
        if self.heldout and all(question.dataset.startswith("world-") for question in self.heldout):
            found["after_unseen"] = self._evaluate("evaluate with unseen experts", unseen=True)
            found |= baselines(self.heldout, "seen", self.config.run.seed)
            unseen = baselines(self.heldout, "unseen", self.config.run.seed)
            found |= {f"{name}_unseen": value for name, value in unseen.items()}
        return {
            **{name: value.as_dict() if value else None for name, value in found.items()},
            "seed": self.config.run.seed,
            "alpha": self.config.rewards.alpha,
            "steps": self.config.run.steps,
            "probe_max_diff": self.probe_max,
            "first_step_ratio_deviation": self.first_ratio,
            "usd_total": sum(self.crew.pool.spent_usd().values()),
            "seconds": {**self.clock.seconds, "total": self.clock.elapsed_s},
        }


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _eval_row(evaluation: Evaluation | None) -> dict[str, float]:
    if evaluation is None:
        return {}
    row = {f"eval/{name}": value for name, value in evaluation.as_dict().items() if isinstance(value, float)}
    row["eval/void_share"] = evaluation.void / (evaluation.void + evaluation.questions)
    return row | {f"eval/call_share/{name}": share for name, share in evaluation.call_share.items()}
