"""Peak memory of a micro-batch: a large vocabulary must not increase it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

FORWARD_AND_BACKWARD = """
import sys, torch
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
from learner.attention import PACKED
from learner.policy import TokenScorer, score
from learner.settings import LearnerSettings

vocabulary, sequences, length = int(sys.argv[1]), 32, 256
torch.set_num_threads(2)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=vocabulary, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
    tie_word_embeddings=True, attn_implementation=PACKED,
))
ids = torch.randint(vocabulary, (sequences * length,))
boundaries = torch.arange(sequences + 1, dtype=torch.int32) * length
positions = torch.arange(len(ids) - 1)[torch.arange(1, len(ids)) % length > 0]
chunks = -(-len(positions) // LearnerSettings().logit_chunk(vocabulary))
scores = score(TokenScorer(model), ids, boundaries, positions, ids[positions + 1], 1.0, chunks)
scores.logprobs.sum().backward()
assert all(p.grad is not None for p in model.parameters())
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
"""


def peak_kib(vocabulary: int) -> int:
    """Peak memory of a process that scores 8,192 tokens with a model of 4 layers, forward and backward.

    Read from the kernel's status file: `ru_maxrss` would be the tests' own peak if that was larger before the fork.
    """
    # With these settings freed tensors go back to the system at once, so that the peak is that of the tensors.
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    command = [sys.executable, "-c", FORWARD_AND_BACKWARD, str(vocabulary)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=True)
    return int(done.stdout)


def test_peak_memory_hardly_grows_with_the_vocabulary() -> None:
    large, small = peak_kib(50_000), peak_kib(1_000)
    assert large <= 1.3 * small, f"{large} against {small} KiB"
