"""The episodes of an evaluation: which there are, and the items that come of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.episodes.episode import EpisodeRequest
from actors.episodes.menu import Renaming
from actors.errors import ExplainedError
from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.evaluation.item import Item, Key, played_item, refused_item
from benchmarks.evaluation.protocol import Pass
from cluster.config.settings import Config
from cluster.episodes.requests import evaluation_requests
from cluster.evaluation.folder import EvaluationFolder
from cluster.evaluation.options import EvaluateError
from cluster.evaluation.repricing import PriceFactors, reprice, reprice_episode
from cluster.players.players import PlayedEpisode, Refused
from rewards.transcript import RouteCall

_SAMPLE_SEEDS = 1 << 33  # between the samples of a question; seeds are multiplied by 16 and stay below 2^63


@dataclass(frozen=True, slots=True)
class EvaluationEpisode:
    """An episode to be played, and where its item belongs."""

    key: Key
    request: EpisodeRequest
    factors: PriceFactors = field(default_factory=dict)  # on prices that its calls count with


def episodes_of(
    config: Config,
    passes: Sequence[Pass],
    questions: Sequence[Question],
    cards: Sequence[ModelCard],
    names: Renaming = "seen",
) -> list[EvaluationEpisode]:
    """Every episode of an evaluation with these candidates. Those of a question have the same menu and budget, whatever
    the pass; each has a place of its own in the ledger, and a seed of its own."""
    found = []
    for each in passes:
        changed: dict[str, Any] = {"policy": config.policy.model_copy(update={"eval_temperature": each.temperature})}
        told = ""
        if each.budget_usd is not None:
            changed["episode"] = config.episode.model_copy(update={"eval_budget_usd": each.budget_usd})
            told = f"-b{each.budget_usd:g}"
        requests = evaluation_requests(config.model_copy(update=changed), 0, questions, cards, names)
        for sample in range(each.samples):
            for index, request in enumerate(requests):
                question = request.question
                group = f"evaluate-t{each.temperature:g}{told}-{sample}-{index}"
                placed = replace(request, group=group, seed=request.seed + sample * _SAMPLE_SEEDS)
                found.append(EvaluationEpisode((each.row, question.dataset, question.id, sample), placed))
    return found


class ItemKeeper:
    """Keeps the items of episodes in the evaluation's folder; `told` hears of each."""

    error: type[ExplainedError] = EvaluateError

    def __init__(self, folder: EvaluationFolder, told: Callable[[], None]) -> None:
        self.place = folder.path
        self._folder, self._told = folder, told
        self._refused: list[tuple[Item, str]] = []  # and why, while nothing else has been answered

    def keep(self, episode: EvaluationEpisode, played: PlayedEpisode) -> None:
        row, _, _, sample = episode.key
        trajectory = reprice_episode(played.trajectory, episode.factors)
        item = played_item(row, sample, trajectory, played.usd)
        self._folder.keep_episode(item, trajectory)
        self._folder.add(item)
        self._believe_refusals()
        self._told()

    def refuse(self, episode: EvaluationEpisode, refused: Refused) -> str:
        row, _, _, sample = episode.key
        item = refused_item(
            row,
            sample,
            episode.request.question,
            turns=reprice(refused.turns, episode.factors),
            policy_tokens=refused.tokens,
            policy_usd=refused.usd,
        )
        self._refused.append((item, str(refused)))
        self._told()
        return str(refused)

    def fail(self, episode: EvaluationEpisode, played: PlayedEpisode, call: RouteCall) -> str:
        why = f"a call to {call.model} ended {call.status}: {call.error}"
        self._folder.fail(episode.key, why)
        self._told()
        return why

    def finish(self) -> None:
        self._believe_refusals()

    def _believe_refusals(self) -> None:
        """Count a refused question as wrong once the model has answered another, or all were asked. Until then the
        request is probably malformed."""
        for item, why in self._refused:
            self._folder.fail(item.key, why)
            self._folder.add(item)
        self._refused = []
