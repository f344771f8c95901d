"""The output for people: progress lines, the tables at the end, and the plot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from rich.console import Console

from cluster.tracking.drawing import COLOURS
from cluster.tracking.progress_plot import plot_run
from cluster.tracking.terminal import Terminal

SUMMARY = {
    "before": {
        "em": 0.4,
        "f1": 0.45,
        "cost_usd_per_1k_questions": 0.2,
        "calls_per_question": 1.0,
        "call_share": {"a": 1.0},
    },
    "after": {
        "em": 0.8,
        "f1": 0.85,
        "cost_usd_per_1k_questions": 0.4,
        "calls_per_question": 1.5,
        "call_share": {"a": 0.25, "b": 0.75},
    },
    "most_competent": {"em": 0.9, "f1": 0.9, "cost_usd_per_1k_questions": 0.5, "calls_per_question": 1.4},
    "after_unseen": {"em": 0.777, "f1": 0.8, "cost_usd_per_1k_questions": 0.4, "calls_per_question": 1.5},
    "random": None,
    "steps": 2,
}
ROW = {
    "reward/mean": 0.5,
    "train/em": 0.25,
    "cost/usd_per_1k_questions": 0.125,
    "rollout/calls_per_question": 1.5,
    "time/step_s": 30.0,
}


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=120, legacy_windows=False), out


def test_a_job_log_gets_a_plain_line_a_step() -> None:
    target, out = console(terminal=False)
    with Terminal(3, target) as terminal:
        for step in (1, 2, 3):
            terminal.phase("roll out")
            terminal.phase("learn")
            terminal.step(step, ROW)
    text = out.getvalue()
    lines = [line for line in text.splitlines() if line.startswith("step ")]
    assert len(lines) == 3
    assert lines[0].split("  ") == [
        "step 1/3", "reward 0.500", "em 0.250", "USD/1k 0.125", "calls/q 1.50", "s/step 30.0", "1:00 left"
    ]  # fmt: skip
    assert "left" not in lines[-1]
    assert text.count("roll out") == 1
    assert "\x1b" not in text


def test_the_line_tells_the_dollars_spent_so_far_by_model() -> None:
    target, out = console(terminal=False)
    usd = {"a": 0.5, "meta/b": 2.25, "c": 0.125, "d": 0.0, "e": 0.0625, "f": 0.03125}
    spent = {f"cost/usd/{name}": dollars for name, dollars in usd.items()}
    with Terminal(3, target) as terminal:
        terminal.step(1, {"reward/mean": 0.5, "cost/usd_total": 0.0})
        terminal.step(2, {**ROW, **spent, "cost/usd_total": sum(usd.values())})
    free, paid = out.getvalue().splitlines()
    assert free == "step 1/3  reward 0.500  USD spent 0.0000"
    assert "  USD spent 2.9688 (meta/b 2.2500, a 0.5000, c 0.1250, 2 others 0.0938)  " in paid


def test_a_terminal_gets_a_live_line() -> None:
    target, out = console(terminal=True)
    with Terminal(3, target) as terminal:
        terminal.phase("roll out")
        terminal.step(1, ROW)
        terminal._display.refresh()
    text = out.getvalue()
    assert "roll out" in text
    assert "1/3" in text
    assert "reward 0.500" in text


def test_the_end_shows_results_shares_and_what_to_type() -> None:
    target, out = console(terminal=False)
    Terminal(2, target).finish(SUMMARY, Path("runs/one"), "quickstart")
    text = out.getvalue()
    for part in ("before", "after", "policy before training", "policy after training", "most competent candidate",
                 "policy after training, unseen", "0.800", "0.777", "75.0%", "router-r1 ask runs/one",
                 "router-r1 serve runs/one", "router-r1 train quickstart rewards.alpha=0.6"):  # fmt: skip
        assert part in text
    assert "random" not in text


def test_the_end_of_a_run_without_evaluation() -> None:
    target, out = console(terminal=False)
    Terminal(2, target).finish({"before": None, "after": None}, Path("runs/one"), "quickstart")
    assert "router-r1 ask" in out.getvalue()


def _pixels(path: Path) -> np.ndarray:  # type: ignore[type-arg]
    from matplotlib.image import imread

    return np.asarray(imread(path))


def test_the_plot_shows_the_numbers(tmp_path: Path) -> None:
    rows = [{"step": 0, "eval/em": 0.4}] + [
        {"step": n, "reward/mean": n / 10, "train/em": n / 10, "cost/usd_per_1k_questions": 0.2} for n in range(1, 8)
    ]
    plot_run(rows, tmp_path / "a.png")
    plot_run([], tmp_path / "empty.png")
    drawn, empty = _pixels(tmp_path / "a.png"), _pixels(tmp_path / "empty.png")
    assert drawn.shape == empty.shape
    assert drawn.shape[0] > 600
    colour = np.frombuffer(bytes.fromhex(COLOURS[0][1:]), dtype=np.uint8) / 255
    blue = np.all(np.abs(drawn[..., :3] - colour) < 0.02, axis=-1)
    third = drawn.shape[0] // 3
    for panel in range(3):
        assert blue[panel * third : (panel + 1) * third].sum() > 50, f"panel {panel} is empty"
    assert not np.all(np.abs(empty[..., :3] - colour) < 0.02, axis=-1).any()
    assert not list(tmp_path.glob(".*"))
