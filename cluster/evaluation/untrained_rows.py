"""Untrained rows: what a model comes to that was not taught to route, on the policy's questions and by its episodes.

`direct` answers at once, `cot` reasons step by step first, and neither can ask anybody; `prompt_only` routes as the
prompt tells it to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from actors.episodes.menu import Menu
from actors.episodes.prompt import Unrouted
from actors.pool.cards import ModelCard
from actors.questions import Question
from actors.whole_files import write_whole
from benchmarks.baselines.rows import UNTRAINED
from benchmarks.evaluation.protocol import Pass
from cluster.config.loading import ConfigError
from cluster.evaluation.episodes import EvaluationEpisode, episodes_of
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.target import Target
from cluster.runs.files import RunFolderError, writing
from cluster.runs.policy_checkpoints import locate_checkpoint

_PROMPT_ONLY = "prompt_only"
_UNROUTED: dict[str, Unrouted] = {"direct": "direct", "cot": "cot"}  # by row


@dataclass(frozen=True, slots=True)
class UntrainedRows:
    """The rows, their episodes, and who plays these."""

    player: Target  # the target itself, where nothing was trained that is known of
    rows: tuple[str, ...] = ()
    episodes: tuple[EvaluationEpisode, ...] = ()
    notes: tuple[str, ...] = ()

    def keep_to_player(self, folder: EvaluationFolder) -> None:
        """Note in the folder who plays the rows, which an evaluation may come to later; or see that it is the same.

        Raises:
            RunFolderError: another model played them, or it can't be read or written.
        """
        if not self.rows:
            return
        file, player = folder.path / "untrained.json", self.player.identity
        if not file.is_file():
            with writing(file, "who plays the untrained rows"):
                write_whole(file, json.dumps({"player": player}) + "\n")
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8"))["player"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunFolderError(f"{file}: damaged ({error}); restore it, or give another --out") from error
        if before != player:
            raise RunFolderError(
                f"--out {folder.path}: holds {', '.join(UNTRAINED)} as {before} plays them, and now it is {player}; "
                "give another folder"
            )


def plan_untrained(
    target: Target,
    names: Sequence[str],
    passes: Sequence[Pass],
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    *,
    asked_for: Sequence[str],
) -> UntrainedRows:
    """The rows among `names`, played as often and at the temperatures of `passes`; notes tell what is left out and why.

    What is not `asked_for` by its own name is left out where it would cost candidates' calls, or tell nothing new.
    """
    wanted = [name for name in UNTRAINED if name in names]
    if not wanted:
        return UntrainedRows(target)
    try:
        player = _player(target)
    except ConfigError as error:
        return UntrainedRows(
            target, notes=(f"{', '.join(wanted)} left out: the weights before training are not to be had ({error})",)
        )
    notes = []
    if _PROMPT_ONLY in wanted and _PROMPT_ONLY not in asked_for and (why := _needless(target, player)):
        wanted.remove(_PROMPT_ONLY)
        notes.append(f"{_PROMPT_ONLY} was left out: {why}; name it in --baselines to have it")
    compact = player.endpoint is None and player.config.episode.prompt == "compact"
    episodes: list[EvaluationEpisode] = []
    rows: list[str] = []
    for name in wanted:
        renamed = [replace(each, row=name + each.row.removeprefix("policy")) for each in passes]
        rows += [each.row for each in renamed]
        waiting = episodes_of(player.config, renamed, questions, cards)
        episodes += [_put(name, each, compact) for each in waiting]
    if wanted:
        notes.append(f"{', '.join(wanted)}: played by {_described(target, player)}")
    if compact and (unrouted := [name for name in wanted if name in _UNROUTED]):
        notes.append(
            f"{', '.join(unrouted)}: the bare question, for the policy of episode.prompt=compact reads nothing else; "
            "there at once and step by step are the same"
        )
    return UntrainedRows(player, tuple(rows), tuple(episodes), tuple(notes))


def _player(target: Target) -> Target:
    """The weights that the target was trained from; the target itself where it is these, or a model at a URL.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    if target.source is None:
        return target
    config = target.config
    base = Path(locate_checkpoint(config.policy.checkpoint, config.run.folder / ".cache")).absolute()
    if base.resolve() == target.source.checkpoint.resolve():
        return target
    return replace(target, source=replace(target.source, checkpoint=base, version=0))


def _needless(target: Target, player: Target) -> str:
    """Why nobody would want routing by the prompt beside the policy unless he says so; empty where he would."""
    if player is target:
        return "the same model plays the policy's row by the same prompt"
    if target.config.candidates.serve == "none":
        return "its calls may cost as much as the policy's"
    return ""


def _put(name: str, waiting: EvaluationEpisode, compact: bool) -> EvaluationEpisode:
    """The policy's episode as a row has it, with a place of its own in the ledger."""
    request = replace(waiting.request, group=f"{name}-{waiting.request.group}")
    if name in _UNROUTED:
        request = replace(request, menu=Menu(()), budget_usd=None, unrouted=None if compact else _UNROUTED[name])
    return replace(waiting, request=request)


def _described(target: Target, player: Target) -> str:
    if target.endpoint is not None:
        return f"{player.identity}, as the policy is"
    return f"{player.identity}, the policy.checkpoint of the configuration{', as the policy is' * (player is target)}"
