"""The windows: how far ahead questions are played, in which order they are trained on, and which are asked again."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import trajectory

from actors.episodes.trajectory import Trajectory
from actors.questions import Question
from benchmarks.world.experts import experts
from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.episodes.source import QuestionSource
from cluster.runs.group_file import read_groups
from cluster.runs.manifest import FILE, FORMAT, STATE, Manifest, read_manifest
from cluster.training.windows import Windows
from cluster.workers.play import Play
from rewards.transcript import CallStatus, StopReason, Transcript, Verdict

SIZE = 2


class Scripted:
    """Replaces the fleet: plays at once, and voids the groups in `void`."""

    def __init__(self, void: Sequence[str] = (), status: CallStatus = CallStatus.TIMEOUT) -> None:
        self.void, self.status = set(void), status
        self.submitted: list[str] = []
        self.forgotten: list[Play] = []

    def submit(self, groups: Sequence[Sequence[object]]) -> list[Play]:
        plays = [Play(requests) for requests in groups]  # type: ignore[arg-type]
        self.submitted += [play.requests[0].group for play in plays]
        return plays

    def collect(self, plays: Sequence[Play], timeout_s: float, setting: str) -> list[list[Trajectory]]:
        for play in plays:
            if play.trajectories is None:
                play.trajectories = [self._play(request) for request in play.requests]
        return [play.trajectories for play in plays if play.trajectories is not None]

    def peek(self, play: Play) -> list[Trajectory] | None:
        return play.trajectories

    def forget(self, plays: Sequence[Play]) -> None:
        self.forgotten += plays

    def _play(self, request: object) -> Trajectory:
        void = request.group in self.void  # type: ignore[attr-defined]
        played = replace(trajectory(request.group, void=void), question=request.question)  # type: ignore[attr-defined]
        if not void:
            return played
        turns = tuple(
            replace(turn, calls=tuple(replace(call, status=self.status) for call in turn.calls))
            for turn in played.transcript.turns
        )
        return replace(played, transcript=Transcript(turns, StopReason.VOID))


def config(**run: object) -> Config:
    overrides = [f"run.{name}={value}" for name, value in run.items()]
    return load_config(
        "quickstart", ["run.groups_per_step=3", f"run.group_size={SIZE}", "run.retry_pause_s=0", *overrides]
    )


def windows(fleet: Scripted, settings: Config, questions: int = 100) -> tuple[Windows, QuestionSource]:
    source = QuestionSource([Question(f"q{n}", "world", f"question {n} ?", ("a",)) for n in range(questions)], 0)
    cards = [expert.card("http://127.0.0.1:1/v1") for expert in experts("seen")]
    return Windows(settings, source, cards, fleet), source  # type: ignore[arg-type]


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_windows_are_issued_as_far_ahead_as_staleness_allows(staleness: int) -> None:
    fleet = Scripted()
    ahead, _ = windows(fleet, config())
    for step in range(1, 6):
        ahead.issue_up_to(step + staleness)
        assert fleet.submitted[-1] == f"{step + staleness}-2"
        assert [t.group for t in ahead.gather(step)] == [f"{step}-{n // SIZE}" for n in range(3 * SIZE)]
        ahead.done(step, 0)
    assert fleet.submitted == [f"{step}-{n}" for step in range(1, 6 + staleness) for n in range(3)]


def test_questions_come_once_an_epoch_however_far_ahead_they_are_played() -> None:
    asked = {}
    for staleness in (0, 2):
        ahead, _ = windows(Scripted(), config(), questions=30)
        seen = asked[staleness] = []
        for step in range(1, 11):
            ahead.issue_up_to(min(step + staleness, 10))
            seen += [t.question.id for t in ahead.gather(step)][::SIZE]
            ahead.done(step, 0)
        assert sorted(seen) == sorted(f"q{n}" for n in range(30))
    assert asked[0] == asked[2]


def test_a_question_whose_group_was_lost_is_asked_anew_and_keeps_its_menu_no_more() -> None:
    fleet = Scripted(void=["1-1", "1.1-0"])
    ahead, source = windows(fleet, config(group_retries=2))
    ahead.issue_up_to(1)
    found = ahead.gather(1)
    assert fleet.submitted == ["1-0", "1-1", "1-2", "1.1-0", "1.2-0"]
    lost = next(t.question for t in found if t.group == "1-1")
    assert {t.question for t in found if t.group in ("1.1-0", "1.2-0")} == {lost}
    assert source.cursor == 3


@pytest.mark.parametrize(
    ("settings", "status"), [({"group_retries": 0}, CallStatus.TIMEOUT), ({}, CallStatus.OVER_BUDGET)]
)
def test_what_was_refused_for_a_cap_is_not_asked_anew(settings: dict[str, int], status: CallStatus) -> None:
    fleet = Scripted(void=["1-0", "1-1", "1-2"], status=status)
    ahead, _ = windows(fleet, config(**settings))
    ahead.issue_up_to(1)
    assert all(t.transcript.stop_reason is StopReason.VOID for t in ahead.gather(1))
    assert len(fleet.submitted) == 3


def test_a_failure_that_a_replay_repeats_is_not_asked_anew() -> None:
    fleet = Scripted(void=["1-0"])
    ahead, _ = windows(fleet, config(group_retries=2))
    ahead.issue_up_to(1)
    first = ahead._windows[1].plays[0]
    fleet.collect([first], 1, "")
    first.trajectories = [replace(t, transcript=changed(t.transcript, final=True)) for t in first.trajectories or []]
    assert {t.transcript.verdict for t in ahead.gather(1) if t.group == "1-0"} == {Verdict.GIVE_UP}
    assert len(fleet.submitted) == 3


@pytest.mark.parametrize("cap", ["pool.cap_usd_per_run", "a replay"])
def test_a_resumed_run_plays_groups_again_that_were_hopeless(cap: str) -> None:
    """The user has raised the cap since, or has changed the ledger's mode."""
    fleet = Scripted(void=["3-1"])
    stopped, source = windows(fleet, config())
    stopped.issue_up_to(3)
    stopped.gather(1)
    fleet.collect(stopped._windows[3].plays, 1, "")
    lost = stopped._windows[3].plays[1]
    refused = {"status": CallStatus.OVER_BUDGET, "error": f"would break {cap}=1"}
    change = {"final": True} if cap == "a replay" else refused
    lost.trajectories = [replace(t, transcript=changed(t.transcript, **change)) for t in lost.trajectories or []]
    groups = stopped.finished_after(1)
    assert list(groups) == ["3-0", "3-1", "3-2"]
    fleet = Scripted()
    resumed, _ = windows(fleet, config())
    resumed.take_up(1, source.cursor, stopped.begins_after(1), groups)
    assert fleet.submitted == ["2-0", "2-1", "2-2", "3-1"]
    assert {t.transcript.verdict for t in resumed.gather(3)} == {Verdict.KEEP}


def changed(transcript: Transcript, **fields: object) -> Transcript:
    """The same with other fields of its calls."""
    turns = [replace(turn, calls=tuple(replace(call, **fields) for call in turn.calls)) for turn in transcript.turns]
    return Transcript(tuple(turns), transcript.stop_reason)


def test_a_resumed_run_plays_the_same_questions_and_keeps_finished_groups() -> None:
    """The run is stopped after step 1 with two windows ahead, in which one group was done."""
    whole, _ = windows(Scripted(), config())
    whole.issue_up_to(3)
    expected = {step: [(t.group, t.question.id) for t in whole.gather(step)] for step in (2, 3)}

    fleet = Scripted()
    stopped, source = windows(fleet, config())
    stopped.issue_up_to(3)
    stopped.gather(1)
    done = stopped._windows[3].plays[1]
    fleet.collect([done], 1, "")
    begins, groups = stopped.begins_after(1), stopped.finished_after(1)
    assert begins == {2: 3, 3: 6}
    assert list(groups) == ["3-1"]

    fleet = Scripted()
    resumed, again = windows(fleet, config())
    resumed.take_up(1, source.cursor, begins, groups)
    assert again.cursor == source.cursor == 9
    assert fleet.submitted == ["2-0", "2-1", "2-2", "3-0", "3-2"]
    assert {step: [(t.group, t.question.id) for t in resumed.gather(step)] for step in (2, 3)} == expected


def test_a_checkpoint_of_an_earlier_version_goes_on_without_its_groups(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that its manifest tells is taken up; the questions of the groups that it pickled are played again."""
    stopped, source = windows(Scripted(), config())
    stopped.issue_up_to(3)
    expected = {step: [(t.group, t.question.id) for t in stopped.gather(step)] for step in (2, 3)}
    (tmp_path / STATE).mkdir()
    (tmp_path / "groups.pickle").write_bytes(pickle.dumps(stopped.finished_after(1)))
    Manifest(1, source.cursor, stopped.begins_after(1), "abc", {}, {"small": 0.25}, 12.5).write(tmp_path)
    values = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    (tmp_path / FILE).write_text(json.dumps(values | {"format": 1}), encoding="utf-8")

    manifest, groups = read_manifest(tmp_path), read_groups(tmp_path)
    assert groups == {}
    assert "groups.pickle is of an earlier version and is not read" in caplog.text
    assert (manifest.format, manifest.spent_usd, manifest.elapsed_s) == (1, {"small": 0.25}, 12.5)
    fleet = Scripted()
    resumed, again = windows(fleet, config())
    resumed.take_up(manifest.step, manifest.cursor, manifest.windows, groups)
    assert again.cursor == source.cursor
    assert fleet.submitted == ["2-0", "2-1", "2-2", "3-0", "3-1", "3-2"]
    assert {step: [(t.group, t.question.id) for t in resumed.gather(step)] for step in (2, 3)} == expected
    manifest.write(tmp_path)
    assert read_manifest(tmp_path).format == FORMAT, "what is written now is of today's format"


def test_a_run_that_goes_back_plays_nothing_anew() -> None:
    """In step 5 the run goes back to the checkpoint of step 2; its windows are those of an undisturbed run."""
    fleet = Scripted(void=["3-1", "5-0"])
    ahead, source = windows(fleet, config())
    found, cursors, begins = {}, {}, {}
    for step in range(1, 6):
        ahead.issue_up_to(step + 1)
        found[step] = ahead.gather(step)
        cursors[step], begins[step] = source.cursor, ahead.begins_after(step)
        if step < 5:
            ahead.done(step, saved=2 if step > 2 else 0)
    submitted = [*fleet.submitted]
    assert "3.1-0" in submitted
    ahead.take_up(2, cursors[2], begins[2], {})
    for step in range(3, 6):
        ahead.issue_up_to(step + 1)
        again = ahead.gather(step)
        assert len(again) == len(found[step])
        assert all(a is b for a, b in zip(again, found[step], strict=True))
        ahead.done(step, saved=2)
    assert fleet.submitted == submitted
    assert {play.requests[0].step for play in fleet.forgotten} <= {1, 2}


def test_a_run_that_goes_back_further_than_it_remembers_plays_anew() -> None:
    fleet = Scripted()
    ahead, source = windows(fleet, config())
    for step in range(1, 4):
        ahead.issue_up_to(step + 1)
        ahead.gather(step)
        ahead.done(step, saved=2)
    ahead.take_up(0, 0, {}, {})
    assert source.cursor == 0
    assert {play.requests[0].step for play in fleet.forgotten} == {3, 4}
    fleet.submitted.clear()
    ahead.issue_up_to(2)
    assert fleet.submitted == [f"{step}-{n}" for step in (1, 2) for n in range(3)]
