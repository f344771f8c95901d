"""The configuration: which values are refused, with which message, and that a resolved one can be read again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from cluster.config.loading import RECIPES, ConfigError, field_paths, load_config, recipe_names
from cluster.config.settings import Config
from cluster.workers.placement import describe


def refusal(*overrides: str, recipe: str = "quickstart") -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_tells_what_it_is_for(name: str) -> None:
    # A recipe may need a file that only its user can name.
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    config = load_config(name)
    assert config.about, f"recipe {name} has no 'about'"
    assert config.about in text


def test_unknown_recipe_hints_at_the_nearest() -> None:
    assert "did you mean 'quickstart'" in refusal(recipe="quickstrat")
    assert "recipes are" in refusal(recipe="zzz")


def test_unknown_key_hints_at_the_nearest() -> None:
    message = refusal("learner.optimizer.lrr=1e-3")
    assert message.startswith("learner.optimizer.lrr: unknown key")
    assert "'learner.optimizer.lr'" in message


def test_unknown_key_within_rewards_is_refused_too() -> None:
    message = refusal("rewards.alfa=0.6")
    assert "rewards.alfa" in message
    assert "unknown key" in message
    assert "rewards.alpha" in message


def test_a_wrong_value_is_named_with_its_path_and_meaning() -> None:
    message = refusal("run.steps=-3")
    assert message.startswith("run.steps: ")
    assert "-3" in message
    assert "Batches to train on." in message


def test_every_fault_gets_its_line() -> None:
    message = refusal("run.steps=-3", "run.nam=x", "engine.dtype=float8")
    assert sorted(line.split(":")[0] for line in message.splitlines()) == ["engine.dtype", "run.nam", "run.steps"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["run.group_size=1"], ["run.group_size=1", "2 or more"]),
        (["candidates.serve=none"], ["pool.cards", "candidates.pool.cards=FILE"]),
        (["candidates.serve=recorded"], ["replies", "candidates.replies=FILE"]),
        (["candidates.serve=recorded", "candidates.replies=r.jsonl"], ["data.train", "candidates.serve=world"]),
        (["learner.device=cuda"], ["engine.device=cpu", "learner.device=cuda"]),
        (["policy.sampling.top_p=0.9"], ["top_p=0.9", "top_p=1"]),
        (["policy.sampling.top_k=5"], ["top_k=5"]),
        (["policy.sampling.temperature=0"], ["temperature=0"]),
        (["learner.dtype=bfloat16", "learner.zero_stage=0"], ["zero_stage=1"]),
        (["engine.tensor_parallel_size=2"], ["device=cuda"]),
        (["rewards.alpha=1.5"], ["alpha=1.5", "[0, 1]"]),
        (["run.max_staleness=-1"], ["run.max_staleness"]),
        (["run.mirror=ftp://user:hunter2@host/x"], ["run.mirror", "no password"]),
        (["candidates.pool.ledger_url=[postgresql://me:hunter2@db/x]"], ["ledger_url", "://***@db/x"]),
        (["data.train=[]"], ["data.train", "at least 1"]),
        (["candidates.pool.cap_usd_per_run=.inf"], ["cap_usd_per_run", "finite"]),
    ],
)
def test_impossible_combinations_tell_the_remedy(overrides: list[str], words: list[str]) -> None:
    message = refusal(*overrides)
    for word in words:
        assert word in message
    assert "hunter2" not in message


@pytest.mark.parametrize("override", ["run.steps", "=3", " =3"])
def test_an_override_needs_key_and_value(override: str) -> None:
    assert "dotted.key=value" in refusal(override)


def test_a_mirror_s_url_may_name_a_user_or_a_container() -> None:
    for url in ("sftp://me@host/runs", "abfs://runs@account.dfs.core.windows.net/x", "s3://bucket/a:b@c"):
        assert load_config("quickstart", [f"run.mirror={url}"]).run.mirror == url


def test_an_override_of_a_value_as_a_section_is_refused() -> None:
    assert "not a section" in refusal("run.steps.more=3")


def test_an_override_that_is_no_yaml_is_refused() -> None:
    assert "not YAML" in refusal("run.name=[a")


def test_overrides_are_typed_and_the_last_one_counts() -> None:
    config = load_config(
        "quickstart",
        [
            "run.steps=3",
            "run.steps=5",
            "rewards.alpha=0.6",
            "data.train=[a.jsonl, b.jsonl]",
            "data.eval=c.jsonl",
            "placement.address=null",
        ],
    )
    assert config.run.steps == 5
    assert config.rewards.alpha == 0.6
    assert config.data.train == ("a.jsonl", "b.jsonl")
    assert config.data.eval == ("c.jsonl",)
    assert config.placement.address is None


@pytest.mark.parametrize("text", ["run: [1, 2", "a: b: c", "\x00"])
def test_malformed_yaml_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    message = refusal(recipe=str(path))
    assert str(path) in message
    assert "not YAML" in message


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x80")
    assert str(path) in refusal(recipe=str(path))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "run: 3\n"])
def test_yaml_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "shape.yaml"
    path.write_text(text, encoding="utf-8")
    assert refusal(recipe=str(path))


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("", encoding="utf-8")
    assert load_config(str(path)) == Config()


@pytest.mark.parametrize("name", recipe_names())
def test_a_dump_can_be_loaded_again(tmp_path: Path, name: str) -> None:
    config = load_config(name, ["run.seed=17", "rewards.alpha=0.3", "run.folder=/somewhere/runs"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.dump()), encoding="utf-8")
    assert load_config(str(path)) == config


def test_every_key_has_a_description() -> None:
    paths = field_paths()
    assert [path for path, (_, about) in paths.items() if not about] == []
    assert "learner.optimizer.lr" in paths
    assert "rewards.alpha" in paths


def test_off_is_a_word_and_no_boolean(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("candidates: {serve: world, pool: {ledger: off}}\nrun: {trace: on}\n")
    found = load_config(str(recipe), ["learner.importance=off", "tracking.wandb=disabled", "run.trace=true"])
    assert (found.candidates.pool.ledger, found.learner.importance, found.run.trace) == ("off", "off", True)
    assert load_config(str(recipe)).run.trace is True
    assert load_config(str(recipe), ["run.trace=off"]).run.trace is False


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["candidates.pool.max_attempts=3", "run.group_retries=0", "episode.on_failed_call=void"], (3, 1, 1)),
        (["candidates.pool.hedge_quantile=0.9", "candidates.pool.max_attempts=3", "run.group_retries=2"], (4, 1, 3)),
        (["episode.on_failed_call=retry", "episode.timeout_retries=1", "episode.provider_error_retries=5"], (8, 7, 3)),
    ],
)
def test_the_requests_that_one_route_can_cause_are_known_before(settings: list[str], expected: tuple[int, ...]) -> None:
    config = load_config("quickstart", settings)
    assert config.requests_per_route == expected
    assert f"causes {math.prod(expected)} requests at most" in describe(config)
