"""The groups of a checkpoint: read as they were written; none from a file that is damaged or of an earlier version."""

from __future__ import annotations

import json
import pickle
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import make_trajectory

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from cluster.runs.group_file import GROUPS, read_groups, write_groups
from rewards.presets import RewardBreakdown
from rewards.transcript import Block, BlockKind, CallStatus, RouteCall, StopReason, Transcript, Turn

TEXTS = st.text(st.characters(), max_size=8)  # with lone surrogates, zero bytes and line ends
NUMBERS = st.floats()  # with NaN and the infinities
COUNTS = st.integers(-(2**70), 2**70)

CALLS = st.builds(
    RouteCall,
    requested=TEXTS, model=st.none() | TEXTS, query=TEXTS, status=st.sampled_from(CallStatus), reply=TEXTS,
    prompt_tokens=COUNTS, completion_tokens=COUNTS, cost_usd=NUMBERS, latency_s=NUMBERS, attempts=COUNTS, error=TEXTS,
    cost_estimated=st.booleans(), raw_cost=NUMBERS, voids=st.booleans(),
)  # fmt: skip
BLOCKS = st.builds(Block, kind=st.sampled_from(BlockKind), text=TEXTS, closed=st.booleans())
FEW = 2


def tuples(of: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(of, max_size=FEW).map(tuple)


TURNS = st.builds(Turn, text=TEXTS, blocks=tuples(BLOCKS), calls=tuples(CALLS), faults=tuples(TEXTS))
REWARDS = st.builds(
    RewardBreakdown,
    format=NUMBERS, outcome=NUMBERS, cost=NUMBERS, total=NUMBERS, em=NUMBERS, f1=NUMBERS, violations=tuples(TEXTS),
    answer=st.none() | TEXTS, routes=COUNTS, components=st.dictionaries(TEXTS, NUMBERS, max_size=FEW),
)  # fmt: skip
INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    tokens = draw(st.integers(0, 5))

    def array(dtype: type[np.generic], values: st.SearchStrategy[object]) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=tokens, max_size=tokens)), dtype=dtype)

    return Trajectory(
        question=draw(st.builds(Question, id=TEXTS, dataset=TEXTS, text=TEXTS, answers=tuples(TEXTS))),
        group=draw(TEXTS),
        seed=draw(COUNTS),
        token_ids=array(np.int64, INT64),
        sampled=array(np.bool_, st.booleans()),
        logprobs=array(np.float32, st.floats(width=32)),
        versions=array(np.int64, INT64),
        transcript=Transcript(draw(tuples(TURNS)), draw(st.sampled_from(StopReason))),
        prompt=draw(TEXTS),
        wall_s=draw(NUMBERS),
        budget_usd=draw(st.none() | NUMBERS),
        reward=draw(st.none() | REWARDS),
    )


def exactly(value: object) -> object:
    """A form of the value to compare, with its types: NaN equals itself, -0.0 differs from 0.0, arrays are bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return dict, [(exactly(key), exactly(inner)) for key, inner in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [exactly(inner) for inner in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value), [exactly(getattr(value, field.name)) for field in fields(value)]
    return type(value), repr(value)


@given(st.dictionaries(TEXTS, st.lists(trajectories(), max_size=FEW), max_size=FEW))
def test_groups_are_read_exactly_as_they_were_written(groups: dict[str, list[Trajectory]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_groups(groups, Path(folder))
        found = read_groups(Path(folder))
    assert exactly(found) == exactly(groups)
    assert all(t.token_ids.flags.writeable for group in found.values() for t in group)


def test_where_there_are_none_no_file_is_written(tmp_path: Path) -> None:
    write_groups({}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert read_groups(tmp_path) == {}


def test_a_token_takes_few_bytes(tmp_path: Path) -> None:
    """At most twelve bytes, for a group as long as those of a real run: a pickle took 21."""
    rng, tokens = np.random.default_rng(0), 4000
    sampled = np.arange(tokens) % 100 < 50
    long = Trajectory(
        **{field.name: getattr(make_trajectory(), field.name) for field in fields(Trajectory)}
        | {
            "token_ids": rng.integers(0, 150_000, tokens),
            "sampled": sampled,
            "logprobs": np.where(sampled, -rng.exponential(size=tokens), 0).astype(np.float32),
            "versions": np.where(sampled, 17, -1),
        }
    )
    write_groups({"8-0": [long] * 8}, tmp_path)
    assert (tmp_path / GROUPS).stat().st_size < 12 * 8 * tokens


def spoilt(row: dict[str, object], **changes: object) -> str:
    return json.dumps({"group": "8-0", "trajectories": [row | changes]})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text, row: text[:-9],
        lambda text, row: "5\n",
        lambda text, row: "{}\n",
        lambda text, row: "[" * 100_000,
        lambda text, row: pickle.dumps({"8-0": []}).decode("latin-1"),
        lambda text, row: spoilt(row, transcript=None),
        lambda text, row: spoilt(row, sampled="AAAA"),
        lambda text, row: spoilt(row, sampled="é"),
        lambda text, row: spoilt(row, sampled=5),
        lambda text, row: spoilt(row, versions=row["logprobs"]),
        lambda text, row: spoilt(row, question={"id": 1}),
        lambda text, row: json.dumps({"group": [], "trajectories": []}),
    ],
)
def test_groups_that_cant_be_read_are_played_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: object
) -> None:
    write_groups({"8-0": [make_trajectory()]}, tmp_path)
    text = (tmp_path / GROUPS).read_text(encoding="ascii")
    row = json.loads(text)["trajectories"][0]
    (tmp_path / GROUPS).write_bytes(spoil(text, row).encode("latin-1"))  # type: ignore[operator]
    assert read_groups(tmp_path) == {}
    (record,) = caplog.records
    assert "groups.jsonl is damaged" in record.getMessage()
    assert "played again" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_groups_of_an_earlier_version_are_left_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "groups.pickle").write_bytes(pickle.dumps({"8-0": [make_trajectory()]}))
    assert read_groups(tmp_path) == {}
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'groups.pickle'} is of an earlier version and is not read")
    assert "played again" in record.getMessage()


def test_a_row_holds_every_field_of_a_trajectory(tmp_path: Path) -> None:
    write_groups({"8-0": [make_trajectory()]}, tmp_path)
    (row,) = json.loads((tmp_path / GROUPS).read_text(encoding="ascii"))["trajectories"]
    assert row.keys() == asdict(make_trajectory()).keys()
