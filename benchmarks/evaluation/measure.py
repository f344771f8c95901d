"""Measures: definitions of a right answer. Rows of one table may have different measures."""

from __future__ import annotations

from typing import Literal

Measure = Literal["exact match", "holds", "judged"]
EXACT: Measure = "exact match"
HOLDS: Measure = "holds"
JUDGED: Measure = "judged"

MEANING: dict[Measure, str] = {
    EXACT: "the answer is an accepted one",
    HOLDS: "an accepted answer stands in the answer as whole words",
    JUDGED: "a person or a score recorded with the reply says so",
}
