"""Writes measurements into a card file, and leaves everything else in the file as it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from actors.pool.cards import CardError, load_cards, shipped_pools
from actors.pool.measure import Measurement
from actors.whole_files import replacing


def check_writable(path: Path) -> None:
    """Check that measurements can be written into a card file, before anything is paid for them.

    Raises:
        CardError: the file ships with the package, can't be replaced, or can't be parsed strictly.
    """
    target = path.resolve()
    if target in (pool.resolve() for pool in shipped_pools()):
        raise CardError(f"{path}: comes with the package and is not written to; copy it and measure the copy")
    if not os.access(target, os.W_OK) or not os.access(target.parent, os.W_OK):
        raise CardError(f"{path}: can't be written; make the file and its folder writable, or measure a copy")
    _parse(target)


def write_measurements(path: Path, measurements: Sequence[Measurement], day: date) -> None:
    """Write accuracies and latencies into the cards of a file. Comments, order and other domains stay.

    The file is replaced in one step: a reader finds the whole old file or the whole new one. It is read again here, so
    that edits made during the measurement stay.

    Raises:
        CardError: the file may not be written, or no longer has a card that was measured.
    """
    check_writable(path)
    target = path.resolve()
    content = _parse(target)
    rows = {row["name"]: row for row in content["models"]}
    for measured in measurements:
        if measured.model not in rows:
            raise CardError(
                f"{path}: card {measured.model!r} was measured but is no longer in the file; nothing was written"
            )
        _fill(rows[measured.model], measured, day)
    text = StringIO()
    _yaml().dump(content, text)
    _replace(target, text.getvalue())


def _yaml() -> YAML:
    yaml = YAML()  # round trip: comments, order and quotes stay
    yaml.preserve_quotes = True
    yaml.width = 1 << 16  # no line is broken
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _parse(target: Path) -> Any:
    try:
        return _yaml().load(target.read_text(encoding="utf-8"))
    except YAMLError as error:  # ruamel is stricter than the loader of cards, for example on duplicate keys
        reason = getattr(error, "problem", None) or type(error).__name__
        raise CardError(f"{target}: can't be written to as it is ({reason}); correct the file") from None


def _fill(row: dict[str, Any], measured: Measurement, day: date) -> None:
    row["latency_s"] = round(measured.latency_s, 3)
    domains = row.setdefault("domains", {})
    domains.update({dataset: round(accuracy, 4) for dataset, accuracy in measured.accuracy.items()})
    row["measured_on"] = day
    row["measured_questions"] = measured.answered


def _replace(target: Path, text: str) -> None:
    with replacing(target) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        load_cards(unfinished)
