"""Settings: the schedule's shape, errors that name field, value and remedy, and an import without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from learner.settings import LearnerSettings, OptimizerSettings


def test_schedule_rises_then_falls_to_zero() -> None:
    linear = OptimizerSettings(warmup_steps=4, schedule="linear", total_steps=14)
    assert [linear.lr_factor(s) for s in (0, 3, 4, 9, 14, 99)] == pytest.approx([0.25, 1, 1, 0.5, 0, 0])
    cosine = OptimizerSettings(warmup_steps=0, schedule="cosine", total_steps=10)
    assert [cosine.lr_factor(s) for s in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    assert OptimizerSettings().lr_factor(10**6) == 1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dtype": "bfloat16", "zero_stage": 0}, "dtype=bfloat16 .*set zero_stage=1"),
        ({"optimizer": {"schedule": "cosine"}}, "schedule=cosine .*set total_steps"),
        ({"optimizer": {"warmup_steps": 9, "total_steps": 9}}, "warmup_steps=9 .*set warmup_steps below"),
        ({"optimizer": {"betas": (0.9, 1.0)}}, r"betas=\(0.9, 1.0\)"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"estimator": "gae"}, "estimator=gae with critic.kind=none.*set critic.kind=head or model"),
        ({"critic": {"kind": "head"}}, "critic.kind=head with estimator=grpo.*set estimator=gae"),
        ({"offload_optimizer": True}, "offload_optimizer=true with device=cpu.*set offload_optimizer=false"),
        ({"offload_reference": True}, "offload_reference=true with device=cpu.*set offload_reference=false"),
        ({"device": "cuda", "offload_optimizer": True}, "offload_optimizer=true with zero_stage=0.*set zero_stage=1"),
        ({"deepspeed": {"gradient_clipping": 3}}, "deepspeed.gradient_clipping=3 .*learner.max_grad_norm; leave it"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 2}}},
            "deepspeed.zero_optimization.stage=2 .*learner.zero_stage",
        ),
        ({"deepspeed": {"bfloat16": {"enabled": True}}}, "deepspeed.bfloat16=.*learner.dtype"),
        ({"deepspeed": {"amp": {"enabled": True}}}, "deepspeed.amp=.*learner.dtype"),
        ({"deepspeed": {"communication_data_type": "fp16"}}, "communication_data_type='fp16' .*learner.dtype"),
        (
            {"deepspeed": {"managed_gradient_accumulation": False}},
            "managed_gradient_accumulation=False .*learner.micro_batch_tokens",
        ),
        (
            {"deepspeed": {"zero_optimization": {"cpu_offload": True}}},
            "zero_optimization.cpu_offload=True .*learner.offload_optimizer",
        ),
        (
            {"deepspeed": {"zero_optimization": {"compute_grad_norm": False}}},
            "zero_optimization.compute_grad_norm=False .*learner.max_grad_norm",
        ),
        (
            {"drop_groups_without_signal": True, "estimator": "reinforce_pp"},
            "drop_groups_without_signal=true with estimator=reinforce_pp.*set drop_groups_without_signal=false",
        ),
        ({"deepspeed": {"zero_optimization": 2}}, "deepspeed.zero_optimization=2 must be a mapping"),
        ({"lora": {"rank": -1}}, r"lora\.rank"),
        ({"estimator": "rloo", "advantages_by": "components"}, "with estimator=rloo.*set estimator=grpo"),
        ({"component_weights": {"cost": 0.5}}, "no effect with advantages_by=total"),
        ({"advantages_by": "components", "component_weights": {"cost": -1}}, r"component_weights\.cost"),
        ({"learning_rate": 1}, "learning_rate"),
        ({"kl_estimator": "k4"}, "kl_estimator"),
        ({"kl_estimator": "k1"}, "kl_estimator=k1 with kl_in=loss .*set kl_estimator=k2"),
        ({"kl_coef": 0, "kl_target": 0.1}, "kl_target=0.1 with kl_coef=0 .*unset kl_target"),
        (
            {"kl_in": "reward", "advantages_by": "components"},
            "kl_in=reward with advantages_by=components.*set kl_in=loss",
        ),
        ({"loss": "cispo", "dual_clip": 3}, "dual_clip=3.0 belongs to loss=ppo, not cispo"),
        ({"aggregation": "sequence_sum_token_norm"}, "aggregation_tokens=None .*set both"),
        ({"aggregation_tokens": 512}, "aggregation_tokens=512 with aggregation=token_mean"),
        ({"importance_cap": 1}, "importance_cap"),
    ],
)
def test_refuses(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        LearnerSettings.model_validate(values)


def test_importance_is_corrected_where_the_sampler_may_be_older() -> None:
    assert LearnerSettings().for_staleness(0).importance == "off"
    assert LearnerSettings().for_staleness(1).importance == "clip"
    assert LearnerSettings(loss="gspo").for_staleness(1).importance == "truncate"
    masked = LearnerSettings(importance="mask")
    assert masked.for_staleness(3) == masked.for_staleness(0) == masked
    assert LearnerSettings(importance="off", importance_cap=float("inf")).for_staleness(0).importance == "off"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"importance": "off"}, "importance=off with max_staleness=2 .*set importance=clip, truncate or mask"),
        ({"importance_cap": float("inf")}, "importance_cap=inf with max_staleness=2 .*set importance_cap"),
    ],
)
def test_unbounded_importance_is_refused_with_staleness(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LearnerSettings.model_validate(values).for_staleness(2)


def test_a_batch_is_scored_first_only_where_it_must_be() -> None:
    assert not LearnerSettings(importance="truncate").scores_first
    assert not LearnerSettings(importance="clip", minibatches=2).scores_first
    assert LearnerSettings(importance="truncate", minibatches=2).scores_first
    assert LearnerSettings(kl_in="reward").scores_first
    assert not LearnerSettings(kl_in="reward", kl_coef=0, ppo_epochs=2).scores_first


def test_estimators_that_compare_no_groups_need_none() -> None:
    compare = {"grpo", "dr_grpo", "rloo", "reinforce_pp_baseline"}
    for estimator in (*compare, "reinforce_pp", "gae"):
        critic = {"kind": "head" if estimator == "gae" else "none"}
        settings = LearnerSettings.model_validate({"estimator": estimator, "critic": critic})
        assert settings.needs_groups == (estimator in compare)


def test_logit_chunks_shrink_with_the_vocabulary() -> None:
    assert [LearnerSettings().logit_chunk(v) for v in (500, 50_000, 10**9)] == [1024, 335, 1]


def test_every_field_is_described() -> None:
    for model in (LearnerSettings, OptimizerSettings):
        assert all(field.description for field in model.model_fields.values())


def test_driver_side_imports_no_torch() -> None:
    code = (
        "import sys, learner.settings, learner.losses.credit, learner.losses.gae, learner.batching, learner.metrics;"
        "import learner.gang;"
        "bad = {'torch', 'deepspeed', 'vllm', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
