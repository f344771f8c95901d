"""Settings: the schedule's shape, refusals that name field, value and remedy, and no torch on import."""

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
        ({"learning_rate": 1}, "learning_rate"),
        ({"kl_estimator": "k3"}, "kl_estimator"),
    ],
)
def test_refuses(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        LearnerSettings.model_validate(values)


def test_every_field_is_described() -> None:
    for model in (LearnerSettings, OptimizerSettings):
        assert all(field.description for field in model.model_fields.values())


def test_driver_side_imports_no_torch() -> None:
    code = (
        "import sys, learner.settings, learner.advantages, learner.batching, learner.metrics, learner.gang;"
        "bad = {'torch', 'deepspeed', 'vllm', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
