"""Supervised fine-tuning: the held-out examples, the steps, and the gang's step compared with plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from learner.settings import LearnerSettings
from learner.sft import SftExample, deal, hold_out, make_sft_samples
from learner.sft_settings import SftSettings

if TYPE_CHECKING:
    import torch

EXAMPLES = [SftExample([1, number], [False, True], str(number)) for number in range(30)]
counts = st.integers(2, 30)


@settings(max_examples=40)
@given(counts, st.floats(0, 0.99), st.integers(0, 9))
def test_every_example_is_either_learnt_or_held_out(count: int, share: float, seed: int) -> None:
    train, heldout = hold_out(EXAMPLES[:count], share, seed)
    assert sorted(map(id, train + heldout)) == sorted(map(id, EXAMPLES[:count]))
    assert train
    assert bool(heldout) == (share > 0)
    assert abs(len(heldout) - share * count) <= 1
    assert hold_out(EXAMPLES[:count], share, seed) == (train, heldout)


def test_too_few_to_hold_out() -> None:
    with pytest.raises(ValueError, match=r"1 demonstrations with sft.heldout_share=0.1 are too few; give 2"):
        hold_out(EXAMPLES[:1], 0.1, 0)
    assert hold_out(EXAMPLES[:1], 0.0, 0) == (EXAMPLES[:1], [])


@settings(max_examples=40)
@given(counts, st.integers(1, 40), st.integers(0, 9), st.integers(1, 3))
def test_an_epoch_deals_every_example_once(count: int, per_step: int, seed: int, epoch: int) -> None:
    batches = deal(EXAMPLES[:count], per_step, seed, epoch)
    assert sorted(id(e) for batch in batches for e in batch) == sorted(map(id, EXAMPLES[:count]))
    assert len(batches) == SftSettings(demonstrations_per_step=per_step).steps_per_epoch(count)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert max(map(len, batches)) <= per_step


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [[e.label for batch in deal(EXAMPLES, 4, *key) for e in batch] for key in ((0, 1), (0, 2), (1, 1))]
    assert orders[0] == [e.label for batch in deal(EXAMPLES, 4, 0, 1) for e in batch]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_rate_rises_and_falls_within_the_run(steps: int) -> None:
    recipe = {"kl_coef": 0.1, "kl_target": 1.0, "estimator": "gae", "critic": {"kind": "head"}, "zero_stage": 2}
    learner = SftSettings(lr=1e-3, warmup_share=0.1).learner_settings(LearnerSettings.model_validate(recipe), steps)
    factors = [learner.optimizer.lr_factor(step) for step in range(steps)]
    assert max(factors) == 1
    assert factors[-1] == min(factors[max(range(steps), key=factors.__getitem__) :])
    assert learner.optimizer.lr_factor(steps) == 0
    assert (learner.optimizer.lr, learner.kl_coef, learner.critic.kind, learner.zero_stage) == (1e-3, 0, "none", 2)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"heldout_share": 1}, {"lr": 0}, {"warmup_share": 1}, {"lrr": 1}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        SftSettings.model_validate(wrong)


@pytest.mark.parametrize("sampled", [[False, False], [True, False]])
def test_an_example_with_nothing_to_learn_is_named(sampled: list[bool]) -> None:
    with pytest.raises(ValueError, match=r"demonstration 'a': .*give a prompt"):
        make_sft_samples([SftExample([1, 2], sampled, "demonstration 'a'")])


def random_examples(rng: np.random.Generator, count: int) -> list[SftExample]:
    examples = []
    for number in range(count):
        length = int(rng.integers(4, 40))
        sampled = rng.random(length) < 0.5
        sampled[0], sampled[-1] = False, True
        examples.append(SftExample(rng.integers(0, 61, length).tolist(), sampled.tolist(), f"example {number}"))
    return examples


def plain_nll(model: Any, examples: list[SftExample]) -> torch.Tensor:
    """Mean over sampled tokens, from the model's own forward pass on right-padded rows, one at a time."""
    import torch

    longest = max(len(e.token_ids) for e in examples) + 3
    total, count = torch.zeros((), dtype=torch.float64), 0
    for e in examples:
        ids = torch.tensor(e.token_ids + [0] * (longest - len(e.token_ids)))
        mask = torch.tensor([1] * len(e.token_ids) + [0] * (longest - len(e.token_ids)))
        logp = model(input_ids=ids[None], attention_mask=mask[None]).logits[0].log_softmax(-1)
        for place in range(1, len(e.token_ids)):
            if e.sampled[place]:
                total = total - logp[place - 1, e.token_ids[place]].double()
                count += 1
    return total / count


@pytest.mark.engine
@pytest.mark.parametrize("gang", [{"ranks": 1}, {"ranks": 2, "zero_stage": 2}, {"ranks": 2, "zero_stage": 3}])
def test_the_gang_learns_as_plain_pytorch_does(gang: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from forked_gang import forked_gang
    from transformers import AutoModelForCausalLM

    rng = np.random.default_rng(3)
    batches, heldout = [random_examples(rng, 7), random_examples(rng, 3)], random_examples(rng, 5)
    adamw = {"eps": 1e-3, "weight_decay": 0.01}  # a small eps would let rounding near 0 flip a whole step
    recipe = LearnerSettings.model_validate(
        gang | {"optimizer": adamw, "micro_batch_tokens": 64, "logit_chunk_tokens": 16, "start_timeout_s": 120}
    )
    sft = SftSettings(lr=3e-3, warmup_share=0.0, schedule="linear")
    settings = sft.learner_settings(recipe, steps=2)

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    optimizer = torch.optim.AdamW(model.parameters(), **adamw)
    with forked_gang(tiny_checkpoint, settings) as running:
        with torch.no_grad():
            assert running.measure_nll(heldout) == pytest.approx(plain_nll(model, heldout).item(), rel=1e-6)
        for batch, share in zip(batches, (1.0, 0.5), strict=True):
            optimizer.param_groups[0]["lr"] = 3e-3 * share
            loss = plain_nll(model, batch)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            learnt = running.fine_tune(batch)
            assert learnt["loss"] == pytest.approx(loss.item(), rel=1e-5)
            assert learnt["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
            assert learnt["lr"] == pytest.approx(3e-3 * share)
            assert learnt["tokens_trained"] == sum(sum(e.sampled) for e in batch)
            assert learnt["padding_efficiency"] == 1
        assert running.batches_trained() == 2
        running.save_pretrained(tmp_path / "policy")
    saved = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "policy").named_parameters())
    for name, wanted in model.named_parameters():
        torch.testing.assert_close(saved[name], wanted, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.engine
def test_a_loss_that_is_not_finite_ends_it_and_names_the_rate(tiny_checkpoint: Path) -> None:
    from forked_gang import forked_gang

    from learner.losses.bad_batches import NonFiniteError

    sft = SftSettings(lr=1e30, warmup_share=0.0, schedule="constant")
    settings = sft.learner_settings(LearnerSettings(start_timeout_s=120), steps=9)
    batch = [SftExample([1, 2, 3], [False, False, True], "example 'bad'")]
    with forked_gang(tiny_checkpoint, settings) as running:
        assert running.fine_tune(batch)["loss"] > 0
        with pytest.raises(
            NonFiniteError, match=r"not finite at optimizer step 1.*'bad'; the step was not taken. Lower"
        ):
            running.fine_tune(batch)
