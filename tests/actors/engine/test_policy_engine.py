"""The policy engine against transformers: its samples, its stops, and the end of its processes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from processes import command
from tiny_llama import reference_logprobs, save_tiny_llama

from actors.engine.admission import Admission
from actors.engine.fork_server import engine_server_pid, start_engine_server
from actors.engine.policy_engine import EngineLost, PolicyEngine
from actors.engine.state import EngineState
from actors.settings import EngineSettings, SamplingSettings

pytestmark = pytest.mark.engine

SETTINGS = EngineSettings(max_model_len=512, max_num_seqs=64, kv_cache_gib=0.25)
PROMPT = list(range(5, 45))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tied")


@pytest.fixture(scope="module")
def model(checkpoint: Path):
    return save_tiny_llama(checkpoint, tied=True, seed=0)


@pytest.fixture(scope="module")
async def engine(checkpoint: Path, model) -> AsyncIterator[PolicyEngine]:
    start_engine_server(SETTINGS)  # it stays, as does multiprocessing's resource tracker
    before = set(psutil.Process().children(recursive=True))
    engine = PolicyEngine(checkpoint, SETTINGS, version=3, weight_backend="gloo")
    await engine.start()
    started = [p for p in psutil.Process().children(recursive=True) if p not in before]
    assert {p.ppid() for p in started} == {engine_server_pid()}
    yield engine
    await engine.shutdown()
    assert not [p for p in started if p.is_running()], "shutdown leaves no process behind"


async def sample(engine: PolicyEngine, **changes):
    arguments = {"max_tokens": 40, "stop": [], "sampling": SamplingSettings(), "seed": 7} | changes
    return await engine.generate(PROMPT, **arguments)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_logprobs_are_those_of_the_sampling_distribution(engine: PolicyEngine, model, temperature: float) -> None:
    generation = await sample(engine, sampling=SamplingSettings(temperature=temperature))
    expected = reference_logprobs(model, PROMPT + generation.token_ids, temperature)[len(PROMPT) - 1 :]
    assert generation.logprobs == pytest.approx(expected, abs=1e-3)
    assert generation.versions == [3] * len(generation.token_ids)


async def test_score_equals_transformers_even_for_cached_prefixes(engine: PolicyEngine, model) -> None:
    token_ids = PROMPT * 3
    for _ in range(2):
        assert await engine.score(token_ids) == pytest.approx(reference_logprobs(model, token_ids), abs=1e-3)
    with pytest.raises(ValueError, match="got 512"):
        await engine.score([5] * SETTINGS.max_model_len)


async def test_the_same_seed_samples_the_same_and_another_does_not(engine: PolicyEngine) -> None:
    first, again, other = await asyncio.gather(sample(engine), sample(engine), sample(engine, seed=8))
    assert first.token_ids == again.token_ids != other.token_ids


async def test_a_stop_string_ends_the_text_and_the_token_stays_whole(engine: PolicyEngine) -> None:
    free = await sample(engine)
    words = free.text.split()
    assert [f"w{i}" for i in free.token_ids] == words
    # The stop string ends one character before the tenth token does, so it ends inside that token.
    stop = f"{words[8]} {words[9]}"[:-1]
    pieces: list[str] = []
    stopped = await sample(engine, stop=[stop], on_text=pieces.append)
    assert stopped.finish_reason == "stop"
    assert stopped.text.endswith(stop)
    assert stopped.text == "".join(pieces)
    assert len(pieces) > 1
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
    assert stopped.text == free.text[: len(stopped.text)]
    assert len(stopped.text) == len(" ".join(words[: len(stopped.token_ids)])) - 1 + free.text.startswith(" ")
    assert len(stopped.logprobs) == len(stopped.versions) == len(stopped.token_ids)


async def test_running_out_of_tokens_is_said(engine: PolicyEngine) -> None:
    generation = await sample(engine, max_tokens=3)
    assert (generation.finish_reason, len(generation.token_ids)) == ("length", 3)


async def test_cancelling_the_caller_aborts_the_request(engine: PolicyEngine) -> None:
    pieces: list[str] = []
    begun = asyncio.Event()

    def hear(piece: str) -> None:
        pieces.append(piece)
        begun.set()

    task = asyncio.create_task(sample(engine, max_tokens=450, seed=11, on_text=hear))
    await asyncio.wait_for(begun.wait(), 30)
    assert engine._engine.get_num_unfinished_requests() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine._engine.get_num_unfinished_requests() == 0
    seen = len(pieces)
    await sample(engine, max_tokens=20)
    assert len(pieces) == seen


async def test_many_seeded_prompts_fill_more_than_one_step(engine: PolicyEngine) -> None:
    """With chunked prefill, a seeded prompt that is split between steps kills a CPU engine."""
    prompts = [[5 + i, *range(5, 255)] for i in range(20)]
    generations = await asyncio.gather(
        *(
            engine.generate(prompt, max_tokens=5, stop=[], sampling=SamplingSettings(), seed=i)
            for i, prompt in enumerate(prompts)
        )
    )
    assert all(g.token_ids for g in generations)


async def test_an_update_needs_a_learner_first(engine: PolicyEngine, model) -> None:
    with pytest.raises(Exception, match="connect the weight sender first"):
        await engine.start_weight_update()
    assert await engine.score(PROMPT) == pytest.approx(reference_logprobs(model, PROMPT), abs=1e-3)


async def test_a_turn_has_a_deadline_and_says_that_the_engine_is_paused(engine: PolicyEngine) -> None:
    settings = engine.settings
    engine.settings = settings.model_copy(update={"turn_timeout_s": 0.5})
    await engine.pause()
    try:
        with pytest.raises(EngineLost, match=r"sample a turn after 40 tokens within .*turn_timeout_s=0\.5.*paused"):
            await sample(engine)
    finally:
        engine.settings = settings
        assert await engine.resume() >= 0.5
    assert (await sample(engine, max_tokens=2)).token_ids


async def test_as_many_generate_as_fit_in_the_cache_and_sample_the_same(engine: PolicyEngine, checkpoint: Path) -> None:
    """The cache has 81 blocks of 32 tokens. Sequences of 240 tokens take 8 each, so ten fit, though 32 may generate."""
    admission = Admission(32)
    states: list[EngineState] = []

    def hear(state: EngineState) -> None:
        states.append(state)
        admission.hear(state)

    async def play(on: PolicyEngine, seed: int) -> list[int]:
        async with admission.episode() as place, place.turn():
            prompt = [5 + seed, *PROMPT[1:]]
            sampling = SamplingSettings()
            generation = await on.generate(prompt, max_tokens=200, stop=[], sampling=sampling, seed=seed)
            return generation.token_ids

    small = PolicyEngine(
        checkpoint, SETTINGS.model_copy(update={"kv_cache_gib": 0.0025}), weight_backend="gloo", tell=hear
    )
    await small.start()
    try:
        found = await asyncio.gather(*(play(small, seed) for seed in range(100)))
    finally:
        await small.shutdown()
    assert any(state.crowded for state in states)
    assert 6 <= admission.target <= 20
    late = states[len(states) // 2 :]
    assert sum(state.waiting for state in late) / len(late) < 3
    assert admission.generating == 0
    admission = Admission(32)
    assert found == await asyncio.gather(*(play(engine, seed) for seed in range(100)))
    assert admission.target == 32


@pytest.mark.slow
def test_the_engine_ends_with_a_killed_owner(checkpoint: Path, model) -> None:
    script = f"""
        import asyncio
        from actors.engine import fork_server as engine_server
        from actors.engine.policy_engine import PolicyEngine
        from actors.settings import EngineSettings

        async def main():
            settings = EngineSettings(max_model_len=128, kv_cache_gib=0.1)
            engine = PolicyEngine({str(checkpoint)!r}, settings, weight_backend="gloo")
            await engine.start()
            pids = [engine_server.engine_server_pid(), *(process.pid for process in engine._children)]
            print(engine._scratch.path, engine_server._scratch.path, *pids, flush=True)
            await asyncio.sleep(600)

        if __name__ == "__main__":
            asyncio.run(main())
    """
    path = checkpoint / "owner.py"
    path.write_text(textwrap.dedent(script))
    owner = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        scratch, server_scratch, *pids = owner.stdout.readline().split()
        assert any(Path(scratch).iterdir())  # vLLM's sockets
        children = [psutil.Process(int(pid)) for pid in pids]
        assert [child.cmdline()[0] for child in children[1:]] == ["VLLM::EngineCore"]
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
    _, alive = psutil.wait_procs(children, timeout=30)
    for process in alive:
        process.kill()
    assert not alive
    assert not Path(scratch).exists()
    assert not Path(server_scratch).exists()


STARTING = """
    import asyncio
    from actors.engine.policy_engine import PolicyEngine, _child_processes
    from actors.settings import EngineSettings

    async def main():
        settings = EngineSettings(max_model_len=128, kv_cache_gib=0.1, start_timeout_s=600)
        engine = PolicyEngine({checkpoint!r}, settings, weight_backend="gloo")
        starting = asyncio.create_task(engine.start())
        await asyncio.sleep({given_up_after_s})
        starting.cancel()
        await asyncio.wait([starting])
        print(starting.cancelled(), *(process.cmdline()[0] for process in _child_processes()))

    if __name__ == "__main__":
        asyncio.run(main())
"""


def start_owner(folder: Path, checkpoint: Path, given_up_after_s: float) -> subprocess.Popen[str]:
    path = folder / "owner.py"
    path.write_text(textwrap.dedent(STARTING.format(checkpoint=str(checkpoint), given_up_after_s=given_up_after_s)))
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_an_engine_given_up_before_its_processes_are_born_leaves_none(checkpoint: Path, model, tmp_path: Path) -> None:
    owner = start_owner(tmp_path, checkpoint, given_up_after_s=3)  # its server still imports vLLM
    try:
        output, _ = owner.communicate(timeout=150)
    finally:
        owner.kill()
    assert output.split() == ["True"]


@pytest.mark.slow
def test_an_engine_whose_owner_is_killed_as_it_starts_ends_with_it(checkpoint: Path, model, tmp_path: Path) -> None:
    owner = start_owner(tmp_path, checkpoint, given_up_after_s=600)
    born: list[psutil.Process] = []
    try:
        for _ in range(15_000):
            family = psutil.Process(owner.pid).children(recursive=True)
            if born := [p for p in family if command(p)[:1] == ["VLLM::EngineCore"]]:
                break
            time.sleep(0.01)
        assert born, "its engine was never born"
        born[0].suspend()
    finally:
        owner.kill()
        owner.wait(10)
    born[0].resume()
    _, alive = psutil.wait_procs(family, timeout=60)
    for process in alive:
        process.kill()
    assert not alive
