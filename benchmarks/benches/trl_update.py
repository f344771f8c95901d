"""TRL's update: its GRPO trainer on given trajectories, one optimizer step at a call. Needs the extra `bench`."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from actors.episodes.trajectory import Trajectory
from learner.losses.credit import assign_credit
from learner.settings import LearnerSettings

MICRO_BATCH = 8  # trajectories of a forward pass, TRL's default
TIMEOUT_S = 600.0


class GivenTrajectories(GRPOTrainer):  # type: ignore[misc]  # TRL has no stubs
    """GRPO's trainer with the rollout taken out: every batch is the same trajectories, padded as TRL pads."""

    given: dict[str, torch.Tensor]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        return self.given


class TrlUpdate:
    """The trainer's loop in a thread of its own, held before every optimizer step until it is asked for."""

    def __init__(
        self, checkpoint: Path, trajectories: Sequence[Trajectory], settings: LearnerSettings, updates: int
    ) -> None:
        torch.set_num_threads(settings.threads)
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._folder = tempfile.TemporaryDirectory(prefix="router-r1-trl-")
        arguments = GRPOConfig(
            output_dir=self._folder.name,
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=len(trajectories) // MICRO_BATCH,
            num_generations=MICRO_BATCH,
            max_steps=updates,
            learning_rate=settings.optimizer.lr,
            adam_epsilon=settings.optimizer.eps,
            lr_scheduler_type="constant",
            max_grad_norm=settings.max_grad_norm,
            loss_type="dapo",  # the mean over tokens, as the learner's
            beta=0.0,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint)
        trainer = GivenTrajectories(
            model=self.model,
            reward_funcs=_no_reward,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": ["w3"] * len(trajectories)}),
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
            callbacks=[_Turnstile(self._go, self._done)],
        )
        trainer.given = padded(trajectories, assign_credit(trajectories, settings).values.tolist())
        self._training = ThreadPoolExecutor(1).submit(trainer.train)

    def update(self) -> None:
        """One optimizer step on all trajectories.

        Raises:
            RuntimeError: the trainer has ended; it takes no more than the `updates` it was made for.
            TimeoutError: the step took longer than `TIMEOUT_S`.
        """
        deadline = time.monotonic() + TIMEOUT_S
        self._go.release()
        while not self._done.acquire(timeout=0.5):
            if self._training.done():
                self._training.result()
                raise RuntimeError("TRL's trainer has taken all its updates; make it for more")
            if time.monotonic() > deadline:
                raise TimeoutError(f"TRL's update was not done within {TIMEOUT_S:g} s")

    @torch.no_grad()
    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Log-probabilities (nats) of all tokens but the first."""
        ids = torch.tensor(token_ids)
        logprobs = torch.log_softmax(self.model(input_ids=ids[None]).logits[0, :-1], -1)
        return [float(x) for x in logprobs.gather(-1, ids[1:, None])[:, 0]]


class _Turnstile(TrainerCallback):  # type: ignore[misc]  # transformers' stubs are not followed
    def __init__(self, go: threading.Semaphore, done: threading.Semaphore) -> None:
        self.go, self.done = go, done

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.go.acquire(timeout=TIMEOUT_S):
            raise TimeoutError(f"TRL's trainer was not asked for an update within {TIMEOUT_S:g} s")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.done.release()


def padded(trajectories: Sequence[Trajectory], advantages: Sequence[float]) -> dict[str, torch.Tensor]:
    """What TRL's loss takes: prompts `[B, P]` padded on the left, the rest `[B, C]` on the right, masks beside.

    Replies are masked out of the loss as TRL masks what tools say.
    """
    prompts, completions, spoken, old = [], [], [], []
    for t in trajectories:
        ids, first = torch.from_numpy(t.token_ids), int(t.sampled.argmax())
        prompts.append(ids[:first])
        completions.append(ids[first:])
        spoken.append(torch.from_numpy(t.sampled[first:]).long())
        old.append(torch.from_numpy(t.logprobs[first:]))
    return {
        "prompt_ids": pad_sequence(prompts, True, padding_side="left"),
        "prompt_mask": pad_sequence([torch.ones_like(p) for p in prompts], True, padding_side="left"),
        "completion_ids": pad_sequence(completions, True),
        "completion_mask": pad_sequence([torch.ones_like(c) for c in completions], True),
        "tool_mask": pad_sequence(spoken, True),
        "old_per_token_logps": pad_sequence(old, True),
        "advantages": torch.tensor(advantages, dtype=torch.float32),
        "num_items_in_batch": torch.tensor(sum(int(t.sampled.sum()) for t in trajectories)),
    }


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)
