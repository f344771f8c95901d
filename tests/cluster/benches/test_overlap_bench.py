"""The overlap bench: its figures from the metrics of two runs."""

from __future__ import annotations

import pytest

from cluster.benches.overlap import WARM_STEPS, judge


def rows(seconds: float, staleness: float) -> list[dict[str, float]]:
    row = {"time/step_s": seconds, "idle/engines": 0.5, "idle/learner": 0.25, "rollout/staleness": staleness}
    return [row | {"time/step_s": 1000.0}] * WARM_STEPS + [row] * 6


@pytest.mark.parametrize(
    ("seconds", "em", "staleness", "holds"),
    [
        (10.0, 0.89, 2, [True, True, True]),
        (10.1, 0.91, 2, [True, False, True]),
        (5.0, 0.87, 3, [False, True, False]),
    ],
)
def test_speed_score_and_age_are_held_against_their_targets(
    seconds: float, em: float, staleness: float, holds: list[bool]
) -> None:
    figures = judge((rows(17.0, 0), 0.90), (rows(seconds, staleness), em))
    assert [figure.holds for figure in figures if figure.target] == holds
    named = {figure.figure: figure.value for figure in figures}
    assert named["S = 0: steps an hour"] == pytest.approx(3600 / 17)
    assert named["steps an hour, S = 2 over S = 0"] == pytest.approx(17 / seconds)
    assert named["exact match lost by S = 2"] == pytest.approx(100 * (0.90 - em))
