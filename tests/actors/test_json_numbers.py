"""Numbers in JSON: what is not known is null there and nan here, at any depth."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from actors.json_numbers import as_json, from_json


def test_what_is_not_finite_is_null_and_the_rest_stays() -> None:
    value = {"a": math.nan, 1: (math.inf, np.float32(0.5), np.int64(3)), "b": {"c": [-math.inf, True, None, "x"]}}
    found = as_json(value | {"file": Path("a/b")})
    assert found == {"a": None, "1": [None, 0.5, 3], "b": {"c": [None, True, None, "x"]}, "file": "a/b"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_null_is_nan_again() -> None:
    assert math.isnan(from_json(as_json(math.nan)))
    assert [from_json(each) for each in (0, 0.0, "", False)] == [0, 0.0, "", False]
