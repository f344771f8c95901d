"""Made-up objects for the cluster's tests: trajectories, and a checkpoint that looks complete."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from actors.episodes.trajectory import TokenBuffer, Trajectory
from actors.questions import Question
from cluster.runs.manifest import Manifest
from rewards.grammar import parse_turn
from rewards.presets import RewardBreakdown
from rewards.transcript import CallStatus, RouteCall, StopReason, Transcript, Turn

MANIFEST = Manifest(7, 84, {8: 72}, "abc", {"normaliser": {"window": [0.5]}}, {"small": 0.25}, 12.5, {"before": None})


def make_trajectory(question: str = "who wrote it ?", reply: str = "it is Ada .") -> Trajectory:
    """Two turns: a route whose reply is `reply`, then the answer `Ada`."""
    texts = ("<think>I ask</think>\n<search>bard: who wrote it ?</search>", "<answer>Ada</answer>")
    call = RouteCall("bard", "poet-7b", "who wrote it ?", CallStatus.OK, reply, 7, 5, 0.000125, 1.25, 2)
    buffer = TokenBuffer()
    buffer.extend_context([1, 2, 3])
    buffer.extend_sampled([4, 5], [-0.1, -0.2], [3, 3])
    parsed = [parse_turn(text) for text in texts]
    turns = (Turn(texts[0], parsed[0][0], (call,), parsed[0][1]), Turn(texts[1], parsed[1][0], (), parsed[1][1]))
    frozen = Trajectory.freeze(
        buffer,
        question=Question("q-1", "test", question, ("Ada", "Ada Lovelace")),
        group="g-1",
        seed=11,
        transcript=Transcript(turns, StopReason.ANSWERED),
        prompt="candidates:\nbard",
        wall_s=2.5,
    )
    reward = RewardBreakdown(0.0, 1.0, 0.75, 0.9, 1.0, 1.0, ("no_think",))
    fields = {name: getattr(frozen, name) for name in Trajectory.__slots__}
    return Trajectory(**{**fields, "reward": reward})


def write_checkpoint(path: Path) -> None:
    """Config, tokenizer and one small tensor, in the format of safetensors."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}", encoding="utf-8")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    data = np.zeros(4, dtype=np.float32).tobytes()
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, len(data)]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


def trajectory(group: str, *, answer: str = "sena", version: int = 3, void: bool = False) -> Trajectory:
    """A route and an answer, not judged; a void trajectory ends at its call, which timed out."""
    buffer = TokenBuffer()
    buffer.extend_context([1, 2, 3])
    buffer.extend_sampled([4, 5], [-0.1, -0.2], [version, version + 1])
    text = f"<think> a </think> <answer> {answer} </answer>"
    status = CallStatus.TIMEOUT if void else CallStatus.OK
    call = RouteCall("zumo", "geologist", "q", status, cost_usd=0.002, latency_s=1.0, error="late" if void else "")
    search = "<think> a </think> <search> zumo : q </search>"
    turns = [Turn(search, parse_turn(search)[0], (call,))]
    if not void:
        turns.append(Turn(text, parse_turn(text)[0]))
    transcript = Transcript(tuple(turns), StopReason.VOID if void else StopReason.ANSWERED)
    question = Question("q", "world", "what ?", ("sena",))
    return Trajectory.freeze(
        buffer, question=question, group=group, seed=0, transcript=transcript, prompt="", wall_s=1.0
    )
