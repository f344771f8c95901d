"""`router-r1 score`: a line for each good line, in order; bad lines are reported by number, whatever their bytes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.score import BadLine, parse_line, score_line, score_settings, score_stream
from rewards.presets import Judge
from rewards.settings import Preset, RewardSettings

EXAMPLES = Path(__file__).parents[1] / "rewards" / "reward_examples.jsonl"
ROWS = [json.loads(line) for line in EXAMPLES.open(encoding="utf-8")]
COMMAND = [sys.executable, "-c", "import sys; from cluster.cli.app import main; main()", "score"]
GOOD = "<think> a </think><search> gemma-2-27b-instruct: q </search><information> r </information>"
GOOD += "<think> b </think><answer> Paris </answer>"


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "response": GOOD, "answers": ["paris"]} | changes


def line(**changes: Any) -> bytes:
    return json.dumps(row(**changes)).encode()


def score(data: bytes, preset: Preset = "reference", metric: Any = "em", alpha: float = 0.0) -> tuple[list[Any], str]:
    out, errors = io.BytesIO(), io.StringIO()
    settings = score_settings(preset, metric, alpha, None)
    bad = score_stream(io.BufferedReader(io.BytesIO(data)), out, errors, settings)  # type: ignore[arg-type]
    assert bad == errors.getvalue().count("\n")
    assert out.getvalue().isascii()
    return [json.loads(one) for one in out.getvalue().splitlines()], errors.getvalue()


def run(*arguments: str, data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], input=data, capture_output=True, timeout=60)


def test_totals_are_as_recorded() -> None:
    for example in (one for one in ROWS if one["kind"] == "total"):
        items = [
            {"id": i, "response": item["response"], "answers": item["golds"], "cost": item["raw_cost"]}
            for i, item in enumerate(example["items"])
        ]
        data = "\n".join(map(json.dumps, items)).encode()
        found, _ = score(data, "reference", example["metric"], example["alpha"])
        for got, expected in zip(found, example["expected"], strict=True):
            assert got["format"] == expected["format"]
            assert got["cost_reward"] == pytest.approx(expected["cost_reward"], abs=1e-9)
            assert got["reward"] == pytest.approx(expected["reward"], abs=1e-9)
            assert got[example["metric"]] == pytest.approx(expected[example["metric"]], abs=1e-9)


def test_formats_and_routes_are_as_recorded() -> None:
    rows = [one for one in ROWS if one["kind"] == "format"]
    data = b"\n".join(line(id=one["id"], response=one["response"]) for one in rows)
    found, _ = score(data)
    assert [one["format"] for one in found] == [one["reference_format"] for one in rows]
    assert [one["routes"] for one in found] == [one["reference_route_count"] for one in rows]


def test_the_command_tells_bad_lines_by_number_and_scores_the_rest() -> None:
    data = b"\n".join([line(id=1), b"{", line(id=3, answers=[]), b"", line(id="five", cost=2.5)])
    done = run("--preset", "paper", "--alpha", "0.5", data=data)
    assert done.returncode == 2
    assert [json.loads(one)["id"] for one in done.stdout.splitlines()] == [1, "five"]
    told = done.stderr.decode().splitlines()
    assert [one.split(":")[0] for one in told] == ["line 2", "line 3", "line 4"]
    assert "id 3" in told[1]
    assert run("--preset", "reference", data=line()).returncode == 0


class Zeros:
    """A gigabyte of zeros without a line end, then two lines."""

    def __init__(self) -> None:
        self.blocks = [b"\0" * (1 << 18)] * 4096 + [b"\0\n" + line() + b"\n", line(id="last")]

    def read1(self, _: int) -> bytes:
        return self.blocks.pop(0) if self.blocks else b""


def test_a_line_without_end_is_told_of_and_does_not_fill_the_memory() -> None:
    out, errors = io.BytesIO(), io.StringIO()
    tracemalloc.start()
    try:
        bad = score_stream(Zeros(), out, errors, score_settings("default", "em", 0.0, None))  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bad == 1
    assert errors.getvalue() == "line 1: longer than 16 MiB, the most that is read; write one JSON object a line\n"
    assert [json.loads(one)["id"] for one in out.getvalue().splitlines()] == ["a", "last"]
    assert peak < 64 * 2**20


@pytest.mark.parametrize(("size", "good"), [(1 << 24, True), ((1 << 24) + 1, False)])
def test_a_line_may_be_as_long_as_is_told(size: int, good: bool) -> None:
    long = line().ljust(size)
    found, errors = score(long + b"\n" + line(id="next"))
    assert [one["id"] for one in found] == (["a", "next"] if good else ["next"])
    assert ("line 1: longer than 16 MiB" in errors) != good


def test_a_reader_that_leaves_ends_the_command_without_a_traceback(tmp_path: Path) -> None:
    episodes = tmp_path / "episodes.jsonl"
    episodes.write_bytes((line() + b"\n") * 20_000)
    with (
        episodes.open("rb") as source,
        subprocess.Popen(COMMAND, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == "a"
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(timeout=60)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cost": float("nan")}, "cost"),
        ({"cost": -1}, "cost"),
        ({"cost": float("inf")}, "cost"),
        ({"cost": True}, "cost"),
        ({"cost": "1"}, "cost"),
        ({"cost": 10**400}, "cost"),
        ({"cost": None}, "cost"),
        ({"answers": []}, "answers"),
        ({"answers": "paris"}, "answers"),
        ({"answers": ["paris", None]}, "answers"),
        ({"response": None}, "response"),
        ({"response": 3}, "response"),
        ({"models": "zumo"}, "models"),
        ({"models": [1]}, "models"),
        ({"models": ["zumo", "geologist", "Zumo "]}, "models"),
        ({"question": 1}, "question"),
    ],
)
def test_a_wrong_field_is_named_with_the_id(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadLine, match=f"id 'a': field '{field}'"):
        parse_line(line(**changes))


@pytest.mark.parametrize("ident", [None, True, [1], float("nan"), float("inf")])
def test_an_id_that_could_not_be_given_back_is_refused(ident: object) -> None:
    with pytest.raises(BadLine, match="field 'id' must be a text or a finite number"):
        parse_line(line(id=ident))


@pytest.mark.parametrize("field", ["id", "response", "answers"])
def test_a_missing_field_is_named(field: str) -> None:
    without = {name: value for name, value in row().items() if name != field}
    with pytest.raises(BadLine, match=f"field '{field}' is missing"):
        parse_line(json.dumps(without).encode())


@pytest.mark.parametrize("bad", [b"", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"id": 1', b'{"id": tru}'])
def test_what_is_no_object_is_refused(bad: bytes) -> None:
    with pytest.raises(BadLine):
        parse_line(bad)


def test_odd_bytes_are_read() -> None:
    odd = [
        line() + b"\r",
        b"\xef\xbb\xbf" + line(),
        line(response="\ud800" + GOOD, id="\udfff"),
        line(response="\x00"),
        line(response=""),
        json.dumps(row(id="né", response=GOOD.replace(">", ">\r\n")), ensure_ascii=False).encode(),
        line(response=GOOD + " " * 1_000_000),
        line(answers=["\ud800"]),
    ]
    found, errors = score(b"\n".join(odd))
    assert errors == ""
    assert [one["id"] for one in found] == ["a", "a", "\udfff", "a", "a", "né", "a", "a"]
    assert [one["format"] for one in found] == [0, 0, -1, -1, -1, 0, 0, 0]


def test_names_are_the_lines_own_or_the_papers_six_and_their_aliases() -> None:
    def formats(name: str, **changes: Any) -> list[float]:
        asked = line(response=GOOD.replace("gemma-2-27b-instruct", name), **changes)
        presets: tuple[Preset, ...] = ("reference", "paper", "default")
        return [score(asked, preset)[0][0]["format"] for preset in presets]

    assert formats("Gemma-2-27B-INSTRUCT") == formats("google/gemma-2-27b-it") == [0, 0, 0]
    assert formats("gemma") == [0, -1, -1]
    assert formats("zumo", models=["Zumo"]) == [-1, 0, 0]
    assert formats("google/gemma-2-27b-it", models=["gemma-2-27b-instruct"]) == [0, 0, 0]
    assert formats("gemma-2-27b-instruct", models=["zumo"]) == [0, -1, -1]


def test_raw_costs_are_dollars_per_million_in_default() -> None:
    (cheap,), _ = score(line(cost=0), "default", alpha=1.0)
    (dear,), _ = score(line(cost=4 * 512 * 1.2), "default", alpha=1.0)
    (half,), _ = score(line(cost=512 * 1.2), "default", alpha=1.0)
    assert [one["reward"] for one in (cheap, dear, half)] == pytest.approx([1.0, 0.0, 0.5])


def test_a_wrong_answer_of_a_malformed_text_is_reported_as_the_published_code_does() -> None:
    def em(response: str, **options: Any) -> float:
        return float(score(line(response=response), **options)[0][0]["em"])

    assert em("<answer> rome </answer>") == -1.0
    assert em("<answer> paris </answer>") == 1.0
    assert (
        em("rome") == em("<answer> rome </answer>", metric="f1") == em("<answer> rome </answer>", preset="paper") == 0
    )


def test_a_bad_line_does_not_enter_the_window() -> None:
    judge = Judge(RewardSettings(preset="reference"))
    with pytest.raises(BadLine):
        score_line(line(cost=5, answers=[]), judge)
    assert judge.state() == {"normaliser": {"window": []}}


def test_in_default_the_order_of_the_lines_changes_nothing() -> None:
    lines = [line(id=i, cost=37.0 * i, answers=["paris" if i % 3 else "rome"]) for i in range(20)]
    forth, _ = score(b"\n".join(lines), "default", alpha=0.5)
    back, _ = score(b"\n".join(reversed(lines)), "default", alpha=0.5)
    assert forth == back[::-1]
    assert len({one["reward"] for one in forth}) > 10


@pytest.mark.parametrize("option", [("--alpha", "2"), ("--alpha", "nan"), ("--cost-scale-usd", "0"), ("--preset", "x")])
def test_settings_out_of_range_are_refused(option: tuple[str, str]) -> None:
    done = CliRunner().invoke(app, ["score", *option])
    assert done.exit_code == 2
    assert option[0].strip("-").replace("-", "_") in done.stderr.replace("-", "_")


def test_a_full_disk_is_told_of() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(COMMAND, input=line(), stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: standard input or output failed: [Errno 28]")
