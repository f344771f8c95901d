"""The reference policy: refused if it can't be compared with the policy, and moved off the device if offloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, CohereConfig

from learner.networks import Networks
from learner.policy import TokenScorer, load_model
from learner.settings import LearnerSettings


def networks(settings: LearnerSettings, checkpoint: Path) -> Networks:
    """Networks with a policy only: the others need a running gang."""
    made = object.__new__(Networks)
    made.settings, made.checkpoint, made.dtype = settings, checkpoint, torch.float32
    made.device = torch.device("cpu")
    made.model = load_model(checkpoint, torch.float32)
    return made


def test_a_reference_of_another_vocabulary_or_architecture_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made = networks(LearnerSettings(), tiny_checkpoint)
    policy = TokenScorer(made.model)
    assert made._load_reference(tiny_checkpoint, policy) is not policy

    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.vocab_size = 70
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"reference=.*other has a vocabulary of 70 tokens and .* of 61.*set policy"):
        made._load_reference(tmp_path / "other", policy)

    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    scaled = CohereConfig(vocab_size=61, logit_scale=0.06, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    AutoModelForCausalLM.from_config(scaled).save_pretrained(tmp_path / "scaled")
    with pytest.raises(ValueError, match=r"CohereForCausalLM: .* not supported"):
        made._load_reference(tmp_path / "scaled", policy)


class Module:
    """Records the devices that it is moved to."""

    def __init__(self) -> None:
        self.where: list[str] = []

    def to(self, device: torch.device | str) -> None:
        self.where.append(str(device))


@pytest.mark.parametrize("offloaded", [True, False])
def test_an_offloaded_reference_is_on_the_device_only_while_it_is_at_hand(
    offloaded: bool, tiny_checkpoint: Path
) -> None:
    made = networks(LearnerSettings(device="cuda", offload_reference=offloaded), tiny_checkpoint)
    made.device = torch.device("cuda")
    made._reference = Module()  # type: ignore[assignment]
    with made.reference_at_hand():
        assert made._reference.where == (["cuda"] if offloaded else [])
    with pytest.raises(RuntimeError, match="a batch failed"), made.reference_at_hand():
        raise RuntimeError("a batch failed")
    assert made._reference.where == (["cuda", "cpu"] * 2 if offloaded else [])
