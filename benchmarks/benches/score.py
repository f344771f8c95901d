"""Scoring: how many finished episodes of 2 KB `router-r1 score` judges in a second on one core."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

from actors.child_process import child_environment, python_command
from benchmarks.benches.figures import Figure, at_least

TARGET_PER_S = 20_000
PRESETS = ("reference", "paper", "default")
LINES = 100_000
REPETITIONS = 3
_TIMEOUT_S = 120.0
_BYTES = 2048  # of a transcript

# What the installed script does, in an interpreter of its own.
_SCORE = "import sys; sys.argv = ['router-r1', 'score', *sys.argv[1:]]; from cluster.cli.app import main; main()"
_NAMES = ("Qwen2.5-7B-Instruct", "LLaMA-3.1-8B-Instruct", "Mistral-7B-Instruct", "Mixtral-8x22B-Instruct")
_WORDS = (
    "the question asks for a river that runs through two countries before it joins another one, so a model with broad "
    "knowledge of places should be asked first; its reply names one, but the other reply (10:30 UTC) disagrees."
).split()


def transcript(rng: random.Random) -> str:
    """A well-formed episode of about 2 KB with one to three calls."""
    calls = rng.randint(1, 3)
    share = _BYTES // (2 * calls + 1) - 40
    pieces = []
    for _ in range(calls):
        pieces.append(f"<think> {_prose(rng, share)} </think>")
        pieces.append(f"<search> {rng.choice(_NAMES)}: where does the river end? </search>")
        pieces.append(f"<information> {_prose(rng, share)} </information>")
    pieces.append(f"<think> {_prose(rng, share)} </think>")
    pieces.append(f"<answer> {rng.choice(('the Danube', 'the Rhine', 'Lake Constance'))} </answer>")
    return "\n\n".join(pieces)


def write_lines(path: Path, lines: int = LINES, seed: int = 0) -> None:
    """Write a file of made-up episodes as `router-r1 score` reads them."""
    rng = random.Random(seed)
    rows = (
        {"id": f"q{i}", "response": transcript(rng), "answers": ["Danube", "the Danube"], "cost": rng.uniform(0, 900)}
        for i in range(lines)
    )
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def lines_per_s(path: Path, preset: str, lines: int = LINES) -> float:
    """Lines scored per second of the command's wall-clock time, its start included."""
    with path.open("rb") as source:
        started = time.perf_counter()
        command, env = python_command("-c", _SCORE, "--preset", preset, "--alpha", "0.5"), child_environment()
        done = subprocess.run(command, env=env, stdin=source, capture_output=True, check=True, timeout=_TIMEOUT_S)
        seconds = time.perf_counter() - started
    scored = done.stdout.count(b"\n")
    if scored != lines:
        raise RuntimeError(f"router-r1 score --preset {preset} gave {scored} lines for {lines}")
    return lines / seconds


def run() -> list[Figure]:
    """Transcripts per second, by preset."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episodes.jsonl"
        write_lines(path)
        return [
            at_least(
                f"router-r1 score --preset {preset}",
                [lines_per_s(path, preset) for _ in range(REPETITIONS)],
                "transcripts/s",
                TARGET_PER_S,
            )
            for preset in PRESETS
        ]


def _prose(rng: random.Random, characters: int) -> str:
    """Words of about this many characters in all."""
    return " ".join(rng.choices(_WORDS, k=max(1, characters // 6)))
