"""Episode requests: which question is asked under which menu, budget and seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from actors.episodes.episode import EpisodeRequest
from actors.episodes.menu import Menu, Renaming, draw_menu
from actors.pool.cards import ModelCard
from actors.questions import Question
from actors.settings import EpisodeSettings, SamplingSettings
from cluster.config.settings import Config

_EVAL_SEED = 1 << 40  # far from any seed of training
_ATTEMPT_STEPS = 200_000  # more steps than a run takes, so that no attempt reuses the seeds of another step


def training_requests(
    config: Config, step: int, questions: Sequence[Question], cards: Sequence[ModelCard], attempt: int = 0
) -> list[EpisodeRequest]:
    """`group_size` episodes of each question; a group shares its menu and budget, and so its prompt.

    Each further attempt of a step, for questions asked again or drawn in addition, has its own names, menus and seeds.
    """
    size = config.run.group_size
    first = (config.run.seed * 1_000_003 + step + attempt * _ATTEMPT_STEPS) * config.run.groups_per_step * size
    name = f"{step}.{attempt}" if attempt else f"{step}"
    return [
        EpisodeRequest(
            question,
            menu,
            group=f"{name}-{index}",
            seed=first + index * size + member,
            sampling=config.policy.sampling,
            step=step,
            budget_usd=budget,
        )
        for index, question in enumerate(questions)
        for draw in [f"{config.run.seed}-{name}-{index}"]
        for menu, budget in [(_menu(config, draw, cards, "seen"), _draw_budget(config.episode, draw))]
        for member in range(size)
    ]


def evaluation_requests(
    config: Config, step: int, questions: Sequence[Question], cards: Sequence[ModelCard], names: Renaming = "seen"
) -> list[EpisodeRequest]:
    """One episode of each question, with the same menus and budgets in every evaluation.

    `step` is the last step trained on. It and `names` are part of the group's name, so that each episode and its calls
    are unique in a run. The requests themselves have no step, because a step's cap in dollars is for training alone.
    """
    sampling = SamplingSettings(temperature=config.policy.eval_temperature)
    return [
        EpisodeRequest(
            question,
            _menu(config, f"eval-{config.run.seed}-{index}", cards, names),
            group=f"eval-{step}-{names}-{index}",
            seed=_EVAL_SEED + config.run.seed * 1_000_003 + index,
            sampling=sampling,
            budget_usd=evaluation_budget(config.episode, f"eval-{config.run.seed}-{index}"),
        )
        for index, question in enumerate(questions)
    ]


def evaluation_budget(settings: EpisodeSettings, seed: str) -> float | None:
    """The budget, in USD, of an episode outside training: the fixed one, or a drawn one, or none."""
    return settings.eval_budget_usd if settings.eval_budget_usd is not None else _draw_budget(settings, seed)


def readable_rules(settings: EpisodeSettings) -> EpisodeSettings:
    """The settings with a prompt that explains the protocol: prompt=compact is for readers who know it."""
    return settings.model_copy(update={"prompt": "instruct"}) if settings.prompt == "compact" else settings


def _draw_budget(settings: EpisodeSettings, seed: str) -> float | None:
    return random.Random(f"budget-{seed}").choice(settings.budgets_usd) if settings.budgets_usd else None


def _menu(config: Config, seed: str, cards: Sequence[ModelCard], names: Renaming) -> Menu:
    rename = names if config.episode.rename_cards else "off"
    return draw_menu(cards, seed, shuffle=config.episode.shuffle_cards, rename=rename)
