"""A provider that is down for twenty seconds in mid-run: training goes on with the rest, then with all again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from processes import Program

from benchmarks.question_sets import load_sources
from benchmarks.world.experts import experts
from benchmarks.world.process import spawn_server, stop_server
from cluster.run_folder import RunFolder

pytestmark = [pytest.mark.engine, pytest.mark.slow]

_CODE = "import sys; sys.argv[0] = 'router-r1'; from cluster.cli import main; main()"
DOWN_S = 20.0
STEPS = 40


def write_inputs(folder: Path, base_urls: tuple[str, str]) -> tuple[Path, Path]:
    """Cards of the world's experts, half of them at each server, and some of its questions."""
    cards = [expert.card(base_urls[number % 2]) for number, expert in enumerate(experts("seen"))]
    models = [card.model_dump(mode="json", exclude_defaults=True) for card in cards]
    card_file, question_file = folder / "cards.yaml", folder / "questions.jsonl"
    card_file.write_text(yaml.safe_dump({"about": "Two providers.", "models": models}))
    questions = load_sources(("world:train",), limit=200, two_hop_share=0.0)
    rows = [{"id": q.id, "dataset": q.dataset, "question": q.text, "answers": list(q.answers)} for q in questions]
    question_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return card_file, question_file


def test_training_goes_on_while_a_provider_is_down(tmp_path: Path) -> None:
    arguments = ["world", "--latency-scale", "0"]
    staying, staying_url = spawn_server(arguments)
    leaving, leaving_url = spawn_server(arguments)
    cards, questions = write_inputs(tmp_path, (staying_url, leaving_url))
    run = Program(
        _CODE,
        ["train", "quickstart", f"run.folder={tmp_path}", "run.name=outage", f"run.steps={STEPS}",
         "run.groups_per_step=4", "run.group_size=4", "run.retry_pause_s=1", "run.checkpoint_every=0",
         "candidates.serve=none", f"candidates.pool.cards={cards}", "candidates.pool.callers=2",
         f"data.train={questions}", f"data.eval={questions}", "data.eval_questions=8", "tracking.wandb=disabled"],
    )  # fmt: skip
    try:
        run.wait_for("step 2/", 300)
        leaving.kill()
        leaving.wait()
        gone = time.monotonic()
        run.wait_for("step 6/", DOWN_S)  # it goes on meanwhile
        time.sleep(max(gone + DOWN_S - time.monotonic(), 0))
        steps_down = RunFolder(tmp_path / "outage").read_metrics()[-1]["step"]
        leaving, _ = spawn_server(arguments, port=int(urlsplit(leaving_url).port or 0))
        assert run.process.wait(300) == 0, run.output
    finally:
        left = run.left()
        stop_server(staying)
        stop_server(leaving)
    assert left == []
    rows = RunFolder(tmp_path / "outage").read_metrics()
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert steps_down >= 6
    assert all(row["learner/optimizer_steps"] >= 1 for row in rows[1:])
    down = [row for row in rows[3 : steps_down + 1] if row["pool/breakers_open"]]
    assert down, "no step saw the breaker open"
    assert any(row["rollout/void_share"] > 0 for row in down)
    assert steps_down < STEPS - 5, "the run was over before the provider came back"
    assert rows[-1]["pool/breakers_open"] == 0
    assert rows[-1]["rollout/void_share"] == 0
