"""`router-r1 evaluate --embedding`: another embedding gives other rows; one that can't be loaded is refused first."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from endpoints import Endpoints
from evaluations import chat, check_unique, lines, numbers, run
from tiny_sentences import make_sentences, needs_sentences
from typer.testing import CliRunner

from benchmarks.baselines import contests
from benchmarks.baselines.router import RouterError
from cluster.cli.app import app
from cluster.evaluation.options import EvaluateError, EvaluationOptions

pytestmark = pytest.mark.thorough

KNN = EvaluationOptions("world", limit=20, baselines=("knn", "best_constant_training"))


@pytest.fixture(autouse=True)
def _little_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contests, "_WORLD_TRAIN", 100)


@needs_sentences
def test_another_embedding_makes_rows_of_its_own(tmp_path: Path) -> None:
    model = str(make_sentences(tmp_path, ["which what who where is the of a in capital river painter"]))
    asked = dataclasses.replace(KNN, out=tmp_path / "out")
    out, _ = run(asked)
    assert "embed questions by" not in (out / "table.md").read_text()
    hashed = lines(out)
    for _ in range(2):  # the second time all rows exist already
        run(dataclasses.replace(asked, embedding=model))
        assert numbers(out).keys() == {f"knn, {model}", "best_constant_training"}
        assert f"Note: knn embed questions by {model}\n" in (out / "table.md").read_text()
        assert lines(out)[: len(hashed)] == hashed
        assert len(lines(out)) == len(hashed) + 20
        check_unique(out)
    run(dataclasses.replace(asked, embedding=model, lambdas=(0.5,)))
    assert f"knn, {model}, λ=0.5" in numbers(out)
    run(asked)
    assert numbers(out).keys() == {"knn", "best_constant_training"}


def test_an_embedding_that_can_not_be_had_is_refused_before_anybody_is_asked(
    endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(RouterError, match="--embedding 'all-MiniLM': needs the package sentence-transformers"):
        run(chat(endpoints, tmp_path, baselines=("knn",), ask_everyone=True, embedding="all-MiniLM"))
    assert not endpoints.asked
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, ["evaluate", "world", "--embedding", "all-MiniLM", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, RouterError)  # `main` prints it in one line
    assert not (tmp_path / "out").exists()


def test_an_embedding_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="--embedding x with --baselines random,cascade: none of these embeds"):
        run(EvaluationOptions("world", baselines=("random", "cascade"), embedding="x", out=tmp_path / "out"))
