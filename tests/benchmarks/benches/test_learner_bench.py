"""The learner bench: what it compares does the same work, and every row is judged."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.benches.learner_model import (
    FEWEST_WORDS,
    LONGEST,
    SHORTEST,
    learner_settings,
    make_trajectories,
    save_model,
)


def test_trajectories() -> None:
    trajectories = make_trajectories()
    lengths = [len(t.token_ids) for t in trajectories]
    assert len(lengths) == 64
    assert SHORTEST <= min(lengths) < 100 < 350 < max(lengths) <= LONGEST
    assert max(int(t.token_ids.max()) for t in trajectories) < FEWEST_WORDS
    assert 0.3 < np.mean([t.sampled.mean() for t in trajectories]) < 0.8
    again = make_trajectories()
    assert all((a.token_ids == b.token_ids).all() for a, b in zip(trajectories, again, strict=True))


def test_rows() -> None:
    from benchmarks.benches.learner import judge

    rates = {"bare": [100.0, 200.0, 100.0], "ZeRO-0": [95.0, 190.0, 90.0], "ZeRO-2": [80.0, 170.0, 80.0]}
    rows = {f.figure: f for f in judge(rates)}
    assert rows["update, bare"].value == 100
    assert rows["update, ZeRO-0 over the bare loop"].value == pytest.approx(0.95)
    assert rows["update, ZeRO-0 over the bare loop"].holds
    assert not rows["update, ZeRO-2 over the bare loop"].holds
    without = rows["update, ZeRO-0 over TRL"]
    assert math.isnan(without.value)
    assert without.holds is None
    assert "not measured" in without.target
    rows = {f.figure: f for f in judge(rates | {"TRL": [50.0, 100.0, 50.0]})}
    assert rows["update, ZeRO-0 over TRL"].value == pytest.approx(1.9)


@pytest.mark.engine
def test_all_ways_train_alike(tmp_path: Path, ray_cluster: None) -> None:
    """Two updates by the gang, by the bare loop and by TRL end at the same policy."""
    from benchmarks.benches.bare_loop import BareLoop
    from benchmarks.benches.learner import measure
    from learner.gang import LearnerGang

    save_model(tmp_path, FEWEST_WORDS)
    trajectories = make_trajectories(8)
    probe = trajectories[0].token_ids[:20].tolist()
    # A large eps keeps AdamW well-conditioned: else rounding in a gradient near 0 flips a whole step of lr.
    settings = learner_settings(optimizer={"lr": 1e-2, "eps": 1e-3})
    bare = BareLoop(tmp_path, trajectories, settings)
    before = bare.logprobs(probe)
    gang = LearnerGang(settings, checkpoint=tmp_path, temperature=1.0)
    for _ in range(2):
        bare.update()
        gang.train_step(trajectories)
    np.testing.assert_allclose(gang.logprobs(probe), bare.logprobs(probe), atol=1e-4)
    assert np.abs(np.subtract(bare.logprobs(probe), before)).max() > 1e-2, "the policy was to move"
    gang.shutdown()
    if find_spec("trl") is not None:
        from benchmarks.benches.trl_update import TrlUpdate

        trl = TrlUpdate(tmp_path, trajectories, settings, 2)
        trl.update()
        trl.update()
        np.testing.assert_allclose(trl.logprobs(probe), bare.logprobs(probe), atol=1e-4)

    rates = measure(tmp_path, trajectories, 1)
    assert set(rates) == {"bare", "ZeRO-0", "ZeRO-2"} | ({"TRL"} if find_spec("trl") else set())
    assert all(rate > 0 for (rate,) in rates.values())
