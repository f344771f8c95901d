"""Weight sync from a learner's module into running engines, checked by log-probabilities."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
import torch
from tiny_llama import reference_logprobs, save_tiny_llama

from actors.engine.announcement import Announcement
from actors.engine.policy_engine import PolicyEngine
from actors.settings import EngineSettings, SamplingSettings
from learner.lora import add_adapters
from learner.settings import LoraSettings
from learner.sync.weight_source import BucketSource, Reading
from learner.sync.weight_sync import WeightSender

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SETTINGS = EngineSettings(max_model_len=512, max_num_seqs=16, kv_cache_gib=0.1)
PROMPT = list(range(5, 45))
PROBE = PROMPT * 2
DEADLINE_S = 300


def wait(calls: Any) -> Any:
    return ray.get(calls, timeout=DEADLINE_S)


def each(workers: list[Any], method: str, *arguments: Any) -> list[Any]:
    return wait([getattr(worker, method).remote(*arguments) for worker in workers])


class Engine(PolicyEngine):
    """An engine whose processes can be suspended and resumed."""

    def freeze(self) -> None:
        for process in self._children:
            process.suspend()

    def thaw(self) -> None:
        for process in self._children:
            process.resume()


@contextmanager
def engines_of(checkpoint: Path, count: int) -> Iterator[list[Any]]:
    actor = ray.remote(num_cpus=0)(Engine)
    engines = [actor.remote(checkpoint, SETTINGS, weight_backend="gloo") for _ in range(count)]
    try:
        each(engines, "start")
        yield engines
    finally:
        each(engines, "shutdown")
        for engine in engines:
            ray.kill(engine)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tied")


@pytest.fixture(scope="module")
def old(checkpoint: Path) -> LlamaForCausalLM:
    """The model that the engines start with."""
    return save_tiny_llama(checkpoint, tied=True, seed=0)


@pytest.fixture(scope="module")
def workers(ray_cluster: None, old: LlamaForCausalLM, checkpoint: Path) -> Iterator[list[Any]]:
    with engines_of(checkpoint, 2) as engines:
        yield engines


def make_sender(module: torch.nn.Module, workers: list[Any], **changes: Any) -> WeightSender:
    # Several buckets, some of which end in the middle of a layer.
    arguments: dict[str, Any] = {"timeout_s": 60, "bucket_bytes": 80_000} | changes
    return WeightSender(module, rank=0, backend="gloo", workers=workers, **arguments)


def assert_engines_hold(model: Any, workers: list[Any]) -> None:
    for scores in each(workers, "score", PROBE):
        assert scores == pytest.approx(reference_logprobs(model, PROBE), abs=1e-4)


def test_engines_sample_from_the_weights_that_were_sent(
    workers: list[Any], old: LlamaForCausalLM, tmp_path: Path
) -> None:
    new = save_tiny_llama(tmp_path / "new", tied=True, seed=1)
    sender = make_sender(new, workers)
    sender.connect()
    arguments = {"max_tokens": 400, "stop": [], "sampling": SamplingSettings()}
    running = [w.generate.remote(PROMPT, seed=s, **arguments) for w in workers for s in range(8)]
    time.sleep(0.3)
    report = sender.send(version=1)
    assert 0 < report.stall_s < report.seconds
    assert report.sent_bytes == 4 * sum(p.numel() for p in new.parameters())
    generations = wait(running)
    assert any(set(g.versions) == {0, 1} for g in generations), "the update comes in mid-generation"
    for g in generations:
        assert g.versions == sorted(g.versions)
        ids, first_new = PROMPT + g.token_ids, g.versions.count(0)
        by_old = reference_logprobs(old, ids)[len(PROMPT) - 1 :]
        by_new = reference_logprobs(new, ids)[len(PROMPT) - 1 :]
        assert g.logprobs == pytest.approx(by_old[:first_new] + by_new[first_new:], abs=1e-3)
    assert_engines_hold(new, workers)
    # Send again over a new group, as after a restart.
    sender.connect(workers)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(1.1)
    sender.send(version=2)
    assert_engines_hold(new, workers)
    sender.close()


def test_an_untied_head_is_sent(ray_cluster: None, tmp_path: Path) -> None:
    save_tiny_llama(tmp_path / "old", tied=False, seed=0)
    new = save_tiny_llama(tmp_path / "new", tied=False, seed=1)
    with engines_of(tmp_path / "old", 1) as engines:
        sender = make_sender(new, engines)
        sender.connect()
        for version in (1, 2):  # the second version meets the first one's shadow weights
            with torch.no_grad():
                new.lm_head.weight.mul_(1.1)
            sender.send(version)
            assert_engines_hold(new, engines)
        sender.close()


def test_adapters_travel_alone_and_are_merged_with_the_engines_checkpoint(
    workers: list[Any], old: LlamaForCausalLM
) -> None:
    policy = copy.deepcopy(old)
    add_adapters(policy, LoraSettings(rank=4, alpha=8))
    sender = make_sender(policy, workers)
    sender.connect()
    for version in (3, 4):
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.3)
        report = sender.send(version)
        assert report.sent_bytes < 0.2 * 4 * sum(p.numel() for p in old.parameters())
        assert_engines_hold(policy, workers)
        assert reference_logprobs(policy, PROBE) != pytest.approx(reference_logprobs(old, PROBE), abs=0.5)
    sender.close()


def test_a_late_engine_is_named_and_the_others_go_on_as_they_were(
    workers: list[Any], old: LlamaForCausalLM, tmp_path: Path
) -> None:
    class FreezeOnTheWay(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            for number, bucket in enumerate(super().__iter__()):
                if number == 1:
                    each(workers[1:], "freeze")
                yield bucket

    settled = make_sender(old, workers)
    settled.connect()
    settled.send(version=5)
    settled.close()
    new = save_tiny_llama(tmp_path, tied=True, seed=2)
    sender = make_sender(new, workers, timeout_s=3)
    sender.connect()
    buckets = sender._source.buckets
    sender._source.buckets = FreezeOnTheWay(buckets)
    try:
        with pytest.raises(TimeoutError, match="rollout worker 1 does not answer"):
            sender.send(version=6)
        assert_engines_hold(old, workers[:1])
        generation = wait(
            workers[0].generate.remote(PROMPT, max_tokens=3, stop=[], sampling=SamplingSettings(), seed=1)
        )
        assert generation.versions == [5] * len(generation.token_ids)
    finally:
        each(workers[1:], "thaw")
    sender._source.buckets = buckets
    sender.connect()
    sender.send(version=7)
    assert_engines_hold(new, workers)
    sender.close()


def test_another_model_s_weights_are_refused_and_the_engines_go_on_as_they_were(
    workers: list[Any], old: LlamaForCausalLM
) -> None:
    settled = make_sender(old, workers)
    settled.connect()
    settled.send(version=8)
    settled.close()
    shallow = copy.deepcopy(old)
    del shallow.model.layers[1]
    sender = make_sender(shallow, workers)
    sender.connect()
    with pytest.raises(Exception, match=r"the learner sent no weights for \d+ of \d+ parameters"):
        sender.send(version=9)
    sender.close()
    assert_engines_hold(old, workers)


def test_an_update_that_nobody_finished_is_given_up_for_the_next(
    workers: list[Any], old: LlamaForCausalLM, tmp_path: Path
) -> None:
    """As if another engine had died after all engines received the weights and before any used them."""
    lost = make_sender(save_tiny_llama(tmp_path / "lost", tied=True, seed=3), workers)
    lost.connect()
    assert lost._sender is not None
    assert lost._client is not None
    lost._client.finish_weight_update = lambda: None  # type: ignore[method-assign]
    lost._sender.send_weights()
    lost.close()
    assert_engines_hold(old, workers)
    new = save_tiny_llama(tmp_path / "new", tied=True, seed=4)
    sender = make_sender(new, workers)
    sender.connect()
    sender.send(version=10)
    assert_engines_hold(new, workers)
    sender.close()


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
    source = BucketSource(model, torch.bfloat16, 80_000)
    names = [piece.name for piece in source.pieces]
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert len(source.buckets) > 2
    for bucket in source.buckets:
        assert bucket.size <= 80_000 or len(bucket.pieces) == 1
        packed = torch.empty(bucket.size, dtype=torch.uint8)
        bucket.gather(packed)
        for name, view in Announcement.decode(bucket.announcement.encode()).views(packed):
            assert torch.equal(view, model.get_parameter(name).to(torch.bfloat16))


@ray.remote(num_cpus=0)
def _sharded(rank: int, rendezvous: str, checkpoint: Path) -> dict[str, Any]:
    """One of two ZeRO-3 ranks: the shapes and the tensors that its source gives."""
    import os

    import torch.distributed as dist
    from transformers import LlamaForCausalLM

    from learner.deepspeed_engine import import_deepspeed

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    deepspeed = import_deepspeed("cpu")
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config, dist_init_required=False)
    source = BucketSource(engine.module, torch.float32, 80_000)
    kept = []
    for bucket in source.buckets:
        packed = torch.empty(bucket.size, dtype=torch.uint8) if rank == 0 else None
        bucket.gather(packed)  # as in sending: only rank 0 packs, the others take part in gathering
        kept += [] if packed is None else list(bucket.announcement.views(packed))
    copies = list(Reading(source))
    sharded = sum(p.numel() == 0 for p in engine.module.parameters())
    dist.destroy_process_group()
    return {
        "sharded": sharded,
        "shapes": {piece.name: piece.shape for piece in source.pieces},
        "packed": {name: tensor.clone() for name, tensor in kept},
        "weights": dict(copies),
    }


def test_a_source_gathers_what_zero_3_has_sharded(ray_cluster: None, tmp_path: Path) -> None:
    model = save_tiny_llama(tmp_path / "model", tied=True, seed=0)
    rendezvous = (tmp_path / "rendezvous").as_uri()
    ranks = wait([_sharded.remote(rank, rendezvous, tmp_path / "model") for rank in range(2)])
    for found in ranks:
        assert found["sharded"] > 0
        assert found["shapes"] == {name: tuple(p.shape) for name, p in model.named_parameters()}
        assert all(torch.equal(found["weights"][name], p) for name, p in model.named_parameters())
    assert all(torch.equal(ranks[0]["packed"][name], p) for name, p in model.named_parameters())
