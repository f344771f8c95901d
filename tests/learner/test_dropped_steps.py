"""In every mode of DeepSpeed a dropped step changes nothing, and bfloat16 gradients are summed in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forked_gang import HOST, fork_context
from torch.distributed import TCPStore

from learner.deepspeed_engine import TrainedModule, import_deepspeed
from learner.settings import LearnerSettings, OptimizerSettings

pytestmark = pytest.mark.engine

RANKS = 2
WIDTH = 3  # 9 and 3 weights: odd numbers, which two ranks can't share evenly
MODES = [
    *({"zero_stage": stage} for stage in (0, 1, 2, 3)),
    *({"zero_stage": stage, "dtype": "bfloat16"} for stage in (1, 2, 3)),
    # The settings refuse offloading on CPU, where it has no effect, but it tests DeepSpeed's code path for GPUs.
    *({"zero_stage": stage, "offload_optimizer": True} for stage in (1, 2, 3)),
]


class Net(torch.nn.Module):
    """A small network that gives one value per input."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = torch.nn.Linear(WIDTH, WIDTH, dtype=dtype)
        self.second = torch.nn.Linear(WIDTH, 1, dtype=dtype)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs).tanh())[:, 0].float()


def whole(module: torch.nn.Module) -> list[torch.Tensor]:
    from learner.deepspeed_engine import gathered

    with gathered(list(module.parameters())):
        return [p.detach().float().clone() for p in module.parameters()]


def train(mode: dict[str, Any], rank: int, *, drop: Callable[[TrainedModule, torch.Tensor], None] | None) -> Any:
    """Take two steps, and a dropped step between them; return the parameters before it, after it and at the end."""
    settings = LearnerSettings.model_construct(**LearnerSettings(ranks=RANKS).__dict__ | mode)
    dtype = getattr(torch, settings.dtype)
    optimizer = OptimizerSettings(lr=0.1, warmup_steps=4)
    trained = TrainedModule(Net(dtype), settings, optimizer)

    def inputs(number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10 * number + rank)
        return torch.randn(4, WIDTH, generator=generator).to(dtype)

    def step(number: int) -> float:
        for part in (0, 1):
            trained.backward(trained.engine(inputs(number + part)).square().mean(), last=part == 1)
        return trained.step()

    assert step(0) > 0
    before, lr = whole(trained.module), trained.lr
    after = before
    if drop is not None:
        trained.backward(trained.engine(inputs(90)).square().mean(), last=False)
        scores = trained.engine(inputs(91))
        drop(trained, scores)
        assert not torch.isfinite(torch.tensor(trained.step()))
        after = whole(trained.module)
        assert (trained.steps, trained.lr) == (1, lr)
    assert step(5) > 0
    return before, after, whole(trained.module)


def serve(line: Any, rank: int, port: int) -> None:
    """A rank's process: trains in every mode, without a dropped step and with one."""
    import os

    deepspeed = import_deepspeed("cpu")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(port)}
    store = TCPStore(HOST, port, RANKS, is_master=False)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    deepspeed.init_distributed(verbose=False)
    try:
        for mode in MODES:
            drop = TrainedModule.drop
            line.send((train(mode, rank, drop=None), train(mode, rank, drop=drop)))
        line.send(sums_of_gradients(rank))
    except Exception as error:
        line.send(error)
        raise


def sums_of_gradients(rank: int) -> dict[int, float]:
    """By ZeRO stage: the norm of the mean of two bfloat16 gradients, 1 on the first rank and 2^-8 on the second."""
    norms = {}
    for stage in (1, 2, 3):
        settings = LearnerSettings(ranks=RANKS, zero_stage=stage, dtype="bfloat16")
        trained = TrainedModule(torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16), settings, OptimizerSettings())
        value = trained.engine(torch.tensor([[1.0 if rank == 0 else 2.0**-8]], dtype=torch.bfloat16))
        trained.backward(value.sum().float() / RANKS, last=True)
        norms[stage] = trained.step()
    return norms


@pytest.fixture(scope="module")
def answers() -> list[Any]:
    """The first rank's results for every mode, then the sums of gradients."""
    store = TCPStore(HOST, 0, RANKS, is_master=True, wait_for_workers=False)
    context = fork_context()
    lines, processes = [], []
    for rank in range(RANKS):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, rank, store.port), daemon=True))
        processes[-1].start()
        theirs.close()
        lines.append(ours)
    try:
        found = []
        for _ in range(len(MODES) + 1):
            told = [line.recv() if line.poll(120) else TimeoutError("a rank hangs") for line in lines]
            found.append(told[0])
            if any(isinstance(answer, Exception) for answer in told):
                found[-1] = next(answer for answer in told if isinstance(answer, Exception))
                break
        return found
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("number", range(len(MODES)), ids=map(str, MODES))
def test_a_dropped_step_leaves_nothing_behind(number: int, answers: list[Any]) -> None:
    assert not isinstance(answers[number], Exception), answers[number]
    (_, _, wanted), (before, after, found) = answers[number]
    for a, b, c, d in zip(before, after, wanted, found, strict=True):
        assert torch.equal(a, b), "a dropped step moved a parameter"
        assert torch.equal(c, d), "a dropped step left something for the next"
        assert not torch.equal(b, d), "the step after it was to move all"


def test_bfloat16_gradients_add_up_in_float32(answers: list[Any]) -> None:
    # In bfloat16, 1 + 2^-8 rounds to 1.
    assert answers[-1] == {stage: pytest.approx((1 + 2**-8) / 2, rel=1e-6) for stage in (1, 2, 3)}
