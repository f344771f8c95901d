"""Supervised fine-tuning: holds examples out, splits the others into steps, and makes the ranks' samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from learner.batching import Sample


@dataclass(frozen=True, slots=True)
class SftExample:
    """A demonstration in tokens; `sampled[i]` says whether token i is the policy's own and is learnt."""

    token_ids: list[int]
    sampled: list[bool]
    label: str = ""  # its name in error messages


def hold_out(examples: Sequence[SftExample], share: float, seed: int) -> tuple[list[SftExample], list[SftExample]]:
    """Split examples at random by `seed`: first those to learn, then the held-out `share`, both in their old order.

    There is at least one example to learn, and at least one held out if `share` > 0.

    Raises:
        ValueError: there are too few examples for that.
    """
    least = 2 if share > 0 else 1
    if len(examples) < least:
        raise ValueError(
            f"{len(examples)} demonstrations with sft.heldout_share={share:g} are too few; give {least} or more"
        )
    count = min(max(round(share * len(examples)), least - 1), len(examples) - 1)
    order = np.random.default_rng([seed, len(examples)]).permutation(len(examples))
    return [examples[i] for i in sorted(order[count:])], [examples[i] for i in sorted(order[:count])]


def deal(examples: Sequence[SftExample], per_step: int, seed: int, epoch: int) -> list[list[SftExample]]:
    """One epoch's steps: all examples once, in random order, in parts of nearly equal size, at most `per_step` each."""
    order = np.random.default_rng([seed, epoch]).permutation(len(examples))
    parts = np.array_split(order, math.ceil(len(examples) / per_step))
    return [[examples[i] for i in part] for part in parts]


def make_sft_samples(examples: Sequence[SftExample]) -> list[Sample]:
    """The ranks' samples. Log-probabilities and advantages are 0, because the supervised loss reads neither.

    Raises:
        ValueError: an example has nothing to learn, or its first token is sampled, which no token predicts.
    """
    samples = []
    for index, example in enumerate(examples):
        sampled = np.asarray(example.sampled, np.bool_)
        if not sampled.any() or sampled[0]:
            fault = "sampled[0] is true, but no token predicts it" if sampled.any() else "no token is sampled"
            raise ValueError(f"{example.label or f'example {index}'}: {fault}; give a prompt, then a text to learn")
        nothing = np.zeros(len(sampled), np.float32)
        samples.append(Sample(index, example.label, np.asarray(example.token_ids, np.int64), sampled, nothing, 0.0))
    return samples
