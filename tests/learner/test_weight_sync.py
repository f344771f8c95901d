"""Weight sync from a learner's module into running engines, checked by log-probabilities."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from tiny_llama import reference_logprobs, save_tiny_llama

from actors.policy_engine import PolicyEngine
from actors.settings import EngineSettings, SamplingSettings
from learner.weight_sync import ModelSource, WeightSender

pytestmark = pytest.mark.engine

SETTINGS = EngineSettings(max_model_len=512, max_num_seqs=16, kv_cache_gib=0.1)
PROMPT = list(range(5, 45))
DEADLINE_S = 300


def wait(calls: Any) -> Any:
    return ray.get(calls, timeout=DEADLINE_S)


def each(workers: list[Any], method: str, *arguments: Any) -> list[Any]:
    return wait([getattr(worker, method).remote(*arguments) for worker in workers])


@pytest.mark.parametrize(("tied", "engines"), [(True, 2), (False, 1)], ids=["tied", "untied"])
def test_engines_sample_from_the_weights_that_were_sent(
    ray_cluster: None, tmp_path: Path, tied: bool, engines: int
) -> None:
    old = save_tiny_llama(tmp_path / "old", tied=tied, seed=0)
    new = save_tiny_llama(tmp_path / "new", tied=tied, seed=1)
    worker_class = ray.remote(num_cpus=0)(PolicyEngine)
    workers = [worker_class.remote(tmp_path / "old", SETTINGS, weight_backend="gloo") for _ in range(engines)]
    try:
        each(workers, "start")
        # Several buckets, with boundaries inside layers.
        sender = WeightSender(new, rank=0, backend="gloo", workers=workers, timeout_s=60, bucket_bytes=80_000)
        sender.connect()
        arguments = {"max_tokens": 400, "stop": [], "sampling": SamplingSettings()}
        running = [w.generate.remote(PROMPT, seed=s, **arguments) for w in workers for s in range(8)]
        time.sleep(0.3)
        each(workers, "pause")
        sender.send(version=1)
        each(workers, "resume")
        generations = wait(running)
        assert any(set(g.versions) == {0, 1} for g in generations), "the update comes in mid-generation"
        for g in generations:
            assert g.versions == sorted(g.versions)
            ids, first_new = PROMPT + g.token_ids, g.versions.count(0)
            by_old = reference_logprobs(old, ids)[len(PROMPT) - 1 :]
            by_new = reference_logprobs(new, ids)[len(PROMPT) - 1 :]
            assert g.logprobs == pytest.approx(by_old[:first_new] + by_new[first_new:], abs=1e-3)
        probe = PROMPT * 2
        for scores in each(workers, "score", probe):
            assert scores == pytest.approx(reference_logprobs(new, probe), abs=1e-4)
            assert scores != pytest.approx(reference_logprobs(old, probe), abs=1)
        # And again over a new group, as after a restart.
        sender.connect(workers)
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.mul_(1.1)
        each(workers, "pause")
        sender.send(version=2)
        each(workers, "resume")
        for scores in each(workers, "score", probe):
            assert scores == pytest.approx(reference_logprobs(new, probe), abs=1e-4)
        sender.close()
    finally:
        each(workers, "shutdown")
        for worker in workers:
            ray.kill(worker)


class _Deaf:
    """A rollout worker that never joins."""

    async def init_weight_transfer(self, init_info: dict[str, Any]) -> None:
        import asyncio

        await asyncio.sleep(60)


def test_a_worker_that_does_not_join_is_named(ray_cluster: None) -> None:
    workers = [ray.remote(num_cpus=0)(_Deaf).remote()]
    module = torch.nn.Linear(2, 2)
    sender = WeightSender(module, rank=0, backend="gloo", workers=workers, timeout_s=2, master_address="127.0.0.1")
    with pytest.raises(TimeoutError, match=r"weight-sync group.* within 2 s"):
        sender.connect()
    with pytest.raises(RuntimeError, match="before connect"):
        sender.send(1)
    ray.kill(workers[0])


def test_a_source_casts_and_sends_tied_parameters_once(tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path, tied=True, seed=0)
    source = ModelSource(model, torch.bfloat16)
    names = [meta.name for meta in source.metadata()]
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    for meta, (name, tensor) in zip(source.metadata(), source, strict=True):
        assert (meta.name, meta.dtype, meta.shape) == (name, tensor.dtype, tuple(tensor.shape))
        assert torch.equal(tensor, model.get_parameter(name).to(torch.bfloat16))


@ray.remote(num_cpus=0)
def _sharded(rank: int, rendezvous: str, checkpoint: Path) -> dict[str, Any]:
    """One of two ZeRO-3 ranks: what its source declares and yields."""
    import os

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", DS_ACCELERATOR="cpu")
    import deepspeed
    import torch.distributed as dist
    from transformers import LlamaForCausalLM

    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config, dist_init_required=False)
    source = ModelSource(engine.module, torch.float32)
    kept = list(source)  # as a bucket keeps them, beyond the gathering
    sharded = sum(p.numel() == 0 for p in engine.module.parameters())
    dist.destroy_process_group()
    return {
        "sharded": sharded,
        "shapes": {meta.name: meta.shape for meta in source.metadata()},
        "weights": {name: tensor.clone() for name, tensor in kept},
    }


def test_a_source_gathers_what_zero_3_has_sharded(ray_cluster: None, tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model", tied=True, seed=0)
    rendezvous = (tmp_path / "rendezvous").as_uri()
    ranks = wait([_sharded.remote(rank, rendezvous, tmp_path / "model") for rank in range(2)])
    for found in ranks:
        assert found["sharded"] > 0
        assert found["shapes"] == {name: tuple(p.shape) for name, p in model.named_parameters()}
        assert all(torch.equal(found["weights"][name], p) for name, p in model.named_parameters())
