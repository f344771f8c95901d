"""Hostile files: pickles in the forms that torch and others read, which make a marker when they are loaded."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any


class _MakesMarker:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def hostile_files(marker: Path) -> dict[str, bytes]:
    """The content of hostile files, by form; each was seen to make its marker, which is then removed."""
    import torch

    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"cpu": _MakesMarker(marker)}, zipped)
    torch.save({"cpu": _MakesMarker(marker)}, legacy, _use_new_zipfile_serialization=False)
    files = {"pickle": pickle.dumps(_MakesMarker(marker)), "torch": zipped.getvalue(), "old torch": legacy.getvalue()}
    for form, content in files.items():
        if form == "pickle":
            pickle.loads(content)
        else:
            torch.load(io.BytesIO(content), weights_only=False)
        assert marker.exists(), f"the hostile file in the form of {form} does no harm, so it would show nothing"
        marker.rmdir()
    return files
