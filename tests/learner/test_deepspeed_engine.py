"""DeepSpeed's configuration: it has the recipe's settings and the additional options."""

from __future__ import annotations

from learner.deepspeed_engine import deepspeed_config
from learner.settings import LearnerSettings, OptimizerSettings


def test_further_options_are_merged() -> None:
    further = {"zero_optimization": {"reduce_bucket_size": 10}, "wall_clock_breakdown": True}
    settings = LearnerSettings(zero_stage=2, max_grad_norm=0.5, deepspeed=further)
    config = deepspeed_config(settings, OptimizerSettings(lr=0.25), parameters=7)
    assert config["zero_optimization"]["stage"] == 2
    assert config["zero_optimization"]["reduce_bucket_size"] == 10
    assert config["zero_optimization"]["allgather_bucket_size"] == 8, "even, as ZeRO 2 wants it"
    assert config["wall_clock_breakdown"] is True
    assert config["gradient_clipping"] == 0.5
    assert config["optimizer"]["params"]["lr"] == 0.25


def test_offload_and_bfloat16() -> None:
    settings = LearnerSettings(device="cuda", dtype="bfloat16", zero_stage=1, offload_optimizer=True)
    config = deepspeed_config(settings, settings.optimizer, parameters=7)
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["bf16"] == {"enabled": True}
    assert config["communication_data_type"] == config["data_types"]["grad_accum_dtype"] == "fp32"
