"""The question embedding: a sentence-transformers model by name or path, or an early error with the remedy."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from router_tables import topics_table
from tiny_sentences import make_sentences, needs_sentences

from benchmarks.baselines.comparison import EMBEDDED, ROUTERS, compare, make_router
from benchmarks.baselines.embedding import Embedder, check_embedding
from benchmarks.baselines.expected import NearestNeighbours
from benchmarks.baselines.router import RouterError, Terms

TRAIN, TEST = topics_table(60, 1), topics_table(30, 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sentences(tmp_path_factory.mktemp("sentences"), [*TRAIN.queries, *TEST.queries])


def test_without_the_package_it_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    refused = r"--embedding 'all-MiniLM': needs the package sentence-transformers, .*pip install sentence-transformers"
    with pytest.raises(RouterError, match=refused):
        check_embedding("all-MiniLM")
    with pytest.raises(RouterError, match=refused):
        Embedder(Terms(embedding="all-MiniLM")).fit(["x"])
    with pytest.raises(RouterError, match=r"--embedding '': names no model"):
        check_embedding("")
    check_embedding("hashing")


@needs_sentences
def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[", encoding="utf-8")
    with pytest.raises(
        RouterError, match=rf"--embedding '{tmp_path}': sentence-transformers can't load it \(.+\); give"
    ):
        check_embedding(str(tmp_path))


@needs_sentences
def test_a_model_embeds_questions_in_vectors_of_unit_length(model: Path) -> None:
    embedder = Embedder(Terms(embedding=str(model)))
    found = embedder.fit(TRAIN.queries)
    assert found.shape == (60, 32)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(60), abs=1e-5)
    assert embedder.embed(TRAIN.queries[:3]) == pytest.approx(found[:3], abs=1e-5)
    assert len(np.unique(found.round(4), axis=0)) > 1


@needs_sentences
def test_routers_choose_by_the_embedding_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NearestNeighbours, "CHOICES", (5, 20))
    hashed, embedded = (compare(TRAIN, TEST, ["knn"], embedding=name)[0] for name in ("hashing", str(model)))
    assert hashed.outcomes != embedded.outcomes


@pytest.mark.parametrize(
    "name", [name for name in ROUTERS if name not in ("ppo", "largest")]
)  # PPO needs Ray; the topics' cards state no sizes
def test_those_that_embed_questions_are_known_by_name(name: str) -> None:
    router = make_router(name, Terms(embedding=""))  # an empty name is no model's
    refused = pytest.raises(RouterError, match="names no model") if name in EMBEDDED else nullcontext()
    with refused:
        router.fit(topics_table(40, 3))
