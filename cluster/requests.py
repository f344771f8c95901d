"""Episode requests: which question is asked under which menu and seed."""

from __future__ import annotations

from collections.abc import Sequence

from actors.episode import EpisodeRequest
from actors.menu import Menu, Renaming, draw_menu
from actors.pool.cards import ModelCard
from actors.questions import Question
from actors.settings import SamplingSettings
from cluster.config import Config

_EVAL_SEED = 1 << 40  # far from any seed of training


def training_requests(
    config: Config, step: int, questions: Sequence[Question], cards: Sequence[ModelCard]
) -> list[EpisodeRequest]:
    """`group_size` episodes of each question; a group shares its menu, and so its prompt."""
    size = config.run.group_size
    first = (config.run.seed * 1_000_003 + step) * len(questions) * size
    return [
        EpisodeRequest(
            question,
            menu,
            group=f"{step}-{index}",
            seed=first + index * size + member,
            sampling=config.policy.sampling,
            step=step,
        )
        for index, question in enumerate(questions)
        for menu in [_menu(config, f"{config.run.seed}-{step}-{index}", cards, "seen")]
        for member in range(size)
    ]


def evaluation_requests(
    config: Config, questions: Sequence[Question], cards: Sequence[ModelCard], names: Renaming = "seen"
) -> list[EpisodeRequest]:
    """One episode of each question, under the same menus whenever it is asked."""
    sampling = SamplingSettings(temperature=config.policy.eval_temperature)
    return [
        EpisodeRequest(
            question,
            _menu(config, f"eval-{config.run.seed}-{index}", cards, names),
            group=f"eval-{index}",
            seed=_EVAL_SEED + config.run.seed * 1_000_003 + index,
            sampling=sampling,
        )
        for index, question in enumerate(questions)
    ]


def _menu(config: Config, seed: str, cards: Sequence[ModelCard], names: Renaming) -> Menu:
    rename = names if config.episode.rename_cards else "off"
    return draw_menu(cards, seed, shuffle=config.episode.shuffle_cards, rename=rename)
