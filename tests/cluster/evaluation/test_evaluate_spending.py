"""The spending of an evaluation on candidates agrees with their endpoints' counts, even after interruptions."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from endpoints import Endpoints
from evaluations import FEW, chat, lines, run

from actors.episodes.remote_model import RemoteModelError

pytestmark = pytest.mark.thorough


def paid(endpoints: Endpoints) -> float:
    """USD of all requests to candidates: 110 tokens for each reply or refusal, at the same price in and out."""
    return 110 * (2.0 * endpoints.asked["alpha"] + 1.0 * endpoints.asked["beta"]) / 1e6


_EVERYONE = """
import pickle, sys, time
from cluster.players import players as evaluation_policy
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.folder import EvaluationFolder
from endpoints import Words
evaluation_policy.load_tokenizer = lambda _: Words()
add = EvaluationFolder.add
def slowly(self, item):
    add(self, item)
    time.sleep(0.01 if item.row == "policy" else 0.5)
EvaluationFolder.add = slowly
evaluate(pickle.load(sys.stdin.buffer), print, lambda *_: None)
"""


def test_what_was_spent_before_a_kill_during_the_baselines_is_told(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path, 6, baselines=("alone",), ask_everyone=True, fit_questions=10, resamples=FEW)
    path = os.pathsep.join(sys.path)
    child = subprocess.Popen(
        [sys.executable, "-c", _EVERYONE],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(pickle.dumps(options))
    child.stdin.close()
    items, until = tmp_path / "out" / "items.jsonl", time.monotonic() + 120
    while not (items.is_file() and b"alone:alpha" in items.read_bytes()):
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    assert endpoints.asked["alpha"] + endpoints.asked["beta"] == 6 + 2 * 16
    spent = paid(endpoints)
    for again in (dataclasses.replace(options, baselines=("none",)), options):
        out, _ = run(again)
        assert json.loads((out / "evaluation.json").read_text())["spent_usd"] == pytest.approx(spent)
    assert paid(endpoints) == spent


def test_without_a_ledger_the_folder_knows_what_was_spent(endpoints: Endpoints, tmp_path: Path) -> None:
    options = chat(endpoints, tmp_path, concurrency=1)
    options = dataclasses.replace(options, overrides=(*options.overrides, "candidates.pool.ledger='off'"))
    endpoints.patience = 8
    with pytest.raises(RemoteModelError, match="refused the key"):
        run(options)
    assert len(lines(tmp_path / "out")) == 4
    endpoints.patience = None
    out, _ = run(options)
    assert endpoints.asked["alpha"] + endpoints.asked["beta"] == 10
    for _ in range(2):
        assert json.loads((out / "evaluation.json").read_text())["spent_usd"] == pytest.approx(paid(endpoints))
        (out / "evaluation.json").unlink()
        run(options)
