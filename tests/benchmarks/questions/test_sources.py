"""Question sources: files with named columns, the seven sets by name, and a hub that can't be reached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shared_data import DATA, needs_data

from actors.questions import Question, QuestionError
from benchmarks.questions import flashrag
from benchmarks.questions.flashrag import SETS, split_of
from benchmarks.questions.sources import file_source, hop_count, load_source, load_sources
from cluster.config.loading import load_config

pytestmark = pytest.mark.thorough


def csv_file(path: Path) -> Path:
    path.write_text('qid,query,gold\n7,who?,"[""me"", ""I""]"\n8,what?,that\n', encoding="utf-8")
    return path


def test_columns_are_named_behind_a_file(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "q.csv")
    source = f"{path}:id=qid:question=query:answers=gold"
    assert load_source(source, limit=None, two_hop_share=0) == [
        Question("7", "q", "who?", ("me", "I")),
        Question("8", "q", "what?", ("that",)),
    ]
    [first] = load_source(f"{source}:name=hotpotqa", limit=1, two_hop_share=0)
    assert (first.dataset, hop_count(first)) == ("hotpotqa", 2)


def test_a_source_goes_through_the_configuration(tmp_path: Path) -> None:
    one = f"{csv_file(tmp_path / 'q.csv')}:id=#:question=query:answers=gold"
    config = load_config("quickstart", [f"data.train=[{one},nq/train]", f"data.eval={one}"])
    assert config.data.train == (one, "nq/train")
    assert [q.id for q in load_sources(config.data.eval, two_hop_share=0)] == ["q-1", "q-2"]


def test_a_file_may_hold_a_colon_in_its_name(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a:id=qid.csv")
    assert file_source(f"{path}:id=qid")[0] == path
    assert file_source(str(path))[0] == path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("q.csv:key=qid", "'key=qid' names no column; after a file you can give id=COLUMN"),
        ("q.csv:id=", "'id=' names no column"),
        ("q.csv", "no such question file; give JSON lines"),
        ("nqq", "unknown; give world:train"),
        ("world:test", "of the world there are world:train and world:heldout"),
        ("nq/validation", "nq has the splits train, dev, test"),
        ("popqa/train", "popqa has the splits test"),
        ("flashrag:squad", "for another set give NAME/SPLIT"),
    ],
)
def test_a_source_that_means_nothing_is_named(source: str, message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        load_source(source, limit=None, two_hop_share=0)


def test_sets_are_evaluated_on_test_or_else_dev() -> None:
    taken = {name: split_of(name, None) for name in SETS}
    dev = {name for name, split in taken.items() if split == "dev"}
    assert dev == {"hotpotqa", "2wikimultihopqa", "musique"}
    assert set(taken.values()) == {"dev", "test"}
    assert split_of("hotpotqa", "train") == "train"
    assert split_of("squad", "dev") == "dev"


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of the collection in a folder; the real `datasets` reads it in the same way as the hub."""
    import datasets

    folder = tmp_path / "flashrag_copy"
    rows = [
        {"id": f"test_{n}", "question": f"q{n}?", "golden_answers": ["a", "b"], "metadata": {"n": n}} for n in range(5)
    ]
    for name in ("nq", "squad"):
        (folder / name).mkdir(parents=True)
        (folder / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test.jsonl\n"
        for name in ("nq", "squad")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{files}---\n", encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(flashrag, "COLLECTION", str(folder))
    monkeypatch.setattr(flashrag, "_hub_fault", lambda: None)
    return folder


@pytest.mark.parametrize("limit", [None, 2])
def test_a_set_is_loaded_by_name(collection: Path, limit: int | None) -> None:
    found = load_source("nq", limit=limit, two_hop_share=0)
    assert len(found) == (limit or 5)
    assert found[1] == Question("nq-test_1", "nq", "q1?", ("a", "b"))
    assert load_source("flashrag:nq/test", limit=limit, two_hop_share=0) == found
    [other] = load_source("flashrag:squad/test", limit=1, two_hop_share=0)
    assert other.id == "squad-test_0"


def test_a_set_that_the_hub_lacks_is_named(collection: Path) -> None:
    with pytest.raises(QuestionError, match=r"'popqa/test': can't load it from .*Give a local file in its place"):
        load_source("popqa", limit=None, two_hop_share=0)


def test_a_copy_in_the_cache_serves_without_the_hub(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = load_source("nq", limit=None, two_hop_share=0)
    [copy] = [path.parent for path in (tmp_path / "cache").rglob("*.arrow")]
    info = json.loads((copy / "dataset_info.json").read_text(encoding="utf-8"))
    there = tmp_path / "cache" / "RUC-NLPIR___flash_rag_datasets" / "nq" / "0.0.0" / "abc"
    there.mkdir(parents=True)
    for path in copy.iterdir():
        shutil.copy(path, there / path.name.replace(info["dataset_name"], "flash_rag_datasets"))
    info |= dict.fromkeys(("builder_name", "dataset_name"), "flash_rag_datasets")
    (there / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    monkeypatch.setattr(flashrag, "COLLECTION", "RUC-NLPIR/FlashRAG_datasets")
    monkeypatch.setattr(flashrag, "_hub_fault", lambda: "no network")
    assert load_source("nq", limit=None, two_hop_share=0) == online
    assert load_source("nq", limit=2, two_hop_share=0) == online[:2]
    with pytest.raises(QuestionError, match=r"the hub can't be reached \(no network\), and no copy is in the cache"):
        load_source("popqa", limit=None, two_hop_share=0)


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_network_the_remedy_is_told_at_once(tmp_path: Path, environment: dict[str, str]) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", "data", "show", "nq"],
        env=os.environ | environment | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "can't load it from RUC-NLPIR/FlashRAG_datasets: the hub can't be reached" in done.stderr
    assert "Give a local file in its place (JSON lines, .csv, .tsv or .parquet" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 20  # datasets alone retries for 24 s


@pytest.mark.parametrize(
    ("dataset", "identity", "hops"),
    [
        ("nq", "1", 1),
        ("triviaqa", "1", 1),
        ("popqa", "1", 1),
        ("hotpotqa", "5a8b57f25542995d1e6f1371", 2),
        ("2wikimultihopqa", "1", 2),
        ("bamboogle", "1", 2),
        ("musique", "2hop__460946_294723", 2),
        ("musique", "3hop1__1_2_3", 3),
        ("musique", "musique-4hop2__1_2_3_4", 4),
        ("musique", "musique-dev-0007", None),
        ("nq", "2hop__1_2", 1),
        ("mine", "2hop__1_2", None),
        ("world-2hop", "x", 2),
    ],
)
def test_hops_are_what_the_data_set_states(dataset: str, identity: str, hops: int | None) -> None:
    assert hop_count(Question(identity, dataset, "q", ("a",))) == hops


@needs_data
@pytest.mark.parametrize(("name", "split"), [(name, split_of(name, None)) for name in SETS])
def test_the_real_subsets_are_read(name: str, split: str) -> None:
    found = load_source(str(DATA / f"{name}_{split}.jsonl"), limit=None, two_hop_share=0)
    assert len(found) == (125 if name == "bamboogle" else 500)
    assert {question.dataset for question in found} == {name}
