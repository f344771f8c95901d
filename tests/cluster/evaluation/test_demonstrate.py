"""`router-r1 demonstrate`: a teacher on loopback plays the world; what it got right is kept, the rest remembered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from loopback import LoopbackModels

from actors.ledger.database import existing_ledger
from actors.ledger.report import spend
from benchmarks.questions.sources import load_sources
from benchmarks.world.coldstart import CHECKPOINT
from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.episodes.judging import BudgetSpent
from cluster.evaluation.demonstrate import DemonstrateError, DemonstrationOptions, Record, make_demonstrations
from learner.demonstrations import DemonstrationEncoder, load_demonstrations

pytestmark = pytest.mark.engine  # starts the candidate server

CONFIG: Config = load_config("quickstart", ["data.two_hop_share=0", "data.train_limit=40"])
QUESTIONS = load_sources(("world:train",), limit=40, two_hop_share=0)
ANSWERS = {question.text: question.answers[0] for question in QUESTIONS}
ANSWERS_BY_ID = {question.id: question.answers[0] for question in QUESTIONS}


class Sage(LoopbackModels):
    """A teacher over HTTP in a thread of its own: it routes to the first candidate, and knows the right answer.

    It answers wrong, in words that the policy lacks, or refuses where the question's answer is in one of these sets.
    """

    def __init__(self) -> None:
        self.wrong: set[str] = set()
        self.wordy: set[str] = set()
        self.refused: set[str] = set()
        self.asked = 0
        self.down = False
        super().__init__()

    async def reply(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.down:
            return web.json_response({"error": {"message": "no"}}, status=403)
        messages = json.loads(await request.read())["messages"]
        prompt = messages[0]["content"]
        assert "<search> MODEL NAME" in prompt, "the teacher was to be told the rules"
        question = re.findall(r"Question: (.*)", prompt)[-1]
        answer = ANSWERS[question]
        if answer in self.refused:
            return web.json_response({"error": {"message": "I'd rather not"}}, status=400)
        if len(messages) == 1:
            name = re.findall(r"^- (\w+): ", prompt, re.M)[0]
            text = f"<think> any </think> <search> {name} : {question.removeprefix('what is the ').removesuffix(' ?')} "
        else:
            assert messages[-1]["content"].startswith("\n<information>")
            said = "unthinkably" if answer in self.wordy else "any"
            text = f"<think> {said} </think> <answer> {'any' if answer in self.wrong else answer} "
        return self.say(text)


@pytest.fixture
def sage() -> Iterator[Sage]:
    sage = Sage()
    yield sage
    sage.stop()


def play(sage: Sage, out: Path, episodes: int, config: Config = CONFIG, **changes: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    asked = {"concurrency": 4} | changes
    options = DemonstrationOptions(sage.url, "sage", out, episodes, price_in=1.0, price_out=10.0, **asked)
    return make_demonstrations(config, options, said.append), said


def drawn(record: Any) -> list[str]:
    """Answers to the questions played, in the order drawn."""
    rows = sorted(record.rows, key=lambda row: int(row["id"].rpartition("-")[2]))
    texts = {
        f"train-{text.removeprefix('what is the ').removesuffix(' ?').replace(' ', '-')}": text for text in ANSWERS
    }
    return [ANSWERS[texts[row["question"]]] for row in rows]


def test_what_scores_well_is_kept_and_the_command_goes_on_where_it_stopped(sage: Sage, tmp_path: Path) -> None:
    out = tmp_path / "new" / "demos.jsonl"
    first, said = play(sage, out, 4)
    assert said[-1].startswith("4 of 4 episodes ended: 4 kept, 0 not; candidates $")
    assert said[-1].endswith("teacher 800 tokens read, 80 written, $0.0016")
    assert sage.asked == 8
    kept = load_demonstrations([out])
    assert {d.id for d in kept} == set(first.outcomes)
    for demonstration in kept:
        assert [segment.sampled for segment in demonstration.segments] == [True, False, True]
        assert "Question:" not in demonstration.prompt  # the recipe's own prompt, not the teacher's
        assert demonstration.about["reward"] == 1.0
        assert demonstration.about["candidates_usd"] > 0

    # Cut short by a crash: a demonstration without its line in the log, and half a line in each file.
    log = out.with_suffix(".episodes.jsonl")
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]) + '{"id": "half', encoding="utf-8")
    out.write_text(out.read_text() + '{"id": "ha', encoding="utf-8")
    again, said = play(sage, out, 8)
    assert said[0] == "4 of 8 episodes were played before"
    assert sage.asked == 16
    assert said[-1].startswith("8 of 8 episodes ended: 8 kept")
    assert said[-1].endswith("teacher 1600 tokens read, 160 written, $0.0032")
    assert len(load_demonstrations([out])) == len(again.outcomes) == 8

    from transformers import AutoTokenizer

    encoder = DemonstrationEncoder(AutoTokenizer.from_pretrained(CHECKPOINT), CONFIG.engine.max_model_len)
    assert len(encoder.encode_all(load_demonstrations([out]))) == 8


def test_what_is_not_kept_is_told_and_not_played_again_but_for_failures(sage: Sage, tmp_path: Path) -> None:
    answers = drawn(play(sage, tmp_path / "all.jsonl", 6)[0])
    assert len(set(answers[:3])) == 3
    sage.wrong, sage.wordy, sage.refused = {answers[0]}, {answers[1]}, {answers[2]}
    out = tmp_path / "some.jsonl"
    record, said = play(sage, out, 6)
    for reason in ("below --min-reward 0.5", "beyond the policy's tokens", "failed: the teacher's provider refused it"):
        assert reason in said[-1]
    kept = len(load_demonstrations([out]))
    assert kept == 6 - sum(answer in sage.wrong | sage.wordy | sage.refused for answer in answers)
    sage.refused = set()
    before = sage.asked
    record, said = play(sage, out, 6)
    assert sage.asked - before == 2 * answers.count(answers[2])
    assert len(record.outcomes) == 6
    assert len(load_demonstrations([out])) == kept + answers.count(answers[2])


def test_what_was_spent_before_a_cap_ended_it_counts_when_it_goes_on(sage: Sage, tmp_path: Path) -> None:
    out = tmp_path / "demos.jsonl"
    cap = load_config(
        "quickstart", ["data.two_hop_share=0", "data.train_limit=40", "candidates.pool.cap_usd_per_run=0.002"]
    )

    def spent() -> list[dict[str, Any]]:
        with existing_ledger(out.with_suffix(".ledger.sqlite")) as ledger:
            return spend(ledger, ["run"])

    for _ in range(2):
        with pytest.raises(BudgetSpent) as caught:
            play(sage, out, 40, cap, concurrency=1)  # of several at once the dearest may be refused before others end
        assert "pool.cap_usd_per_run=0.002" in str(caught.value)
        assert "the same command goes on" in str(caught.value)
        [run] = spent()
        assert run["run"].startswith("demos-")
        assert 0.0008 < run["cost_usd"] <= 0.002
    _, said = play(sage, out, 40)  # without the cap
    [run] = spent()
    assert f"candidates ${run['cost_usd']:.4f}" in said[-1]
    assert run["cost_usd"] > 0.002


def test_a_teacher_that_always_refuses_ends_it(sage: Sage, tmp_path: Path) -> None:
    sage.refused = set(ANSWERS.values())
    with pytest.raises(DemonstrateError) as caught:
        play(sage, tmp_path / "demos.jsonl", 40)
    assert "8 episodes in a row failed, the last of question 'train-" in str(caught.value)
    assert "': the teacher's provider refused it: " in str(caught.value)
    assert "I'd rather not" in str(caught.value)
    assert sage.asked < 16


def test_what_can_not_work_is_refused_before_anyone_is_asked(
    sage: Sage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAGE_KEY", raising=False)
    with pytest.raises(DemonstrateError, match="--api-key-env: the environment variable SAGE_KEY is not set"):
        play(sage, tmp_path / "demos.jsonl", 4, api_key_env="SAGE_KEY")
    (tmp_path / "bad.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(DemonstrateError, match=r"--out .*bad.jsonl: .*line 1: field 'id'"):
        play(sage, tmp_path / "bad.jsonl", 4)
    prose = tmp_path / "prose.txt"
    prose.write_text("not ours, and without a newline", encoding="utf-8")
    with pytest.raises(DemonstrateError, match=r"--out .*prose.txt"):
        play(sage, prose, 4)
    assert prose.read_text(encoding="utf-8") == "not ours, and without a newline"
    assert sage.asked == 0


def test_two_outs_have_two_records(tmp_path: Path) -> None:
    records = [Record(tmp_path / name) for name in ("demos.v1", "demos.v2", "demos.jsonl")]
    assert len({each for record in records for each in (record.log, record.ledger, record.run_id_file)}) == 9
    assert records[2].log == tmp_path / "demos.episodes.jsonl"
