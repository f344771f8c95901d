"""`router-r1 sft`: fine-tunes a policy on demonstrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.cli.arguments import Overrides, Recipe
from cluster.cli.output import stoppable

if TYPE_CHECKING:
    from cluster.config.settings import Config


def sft(recipe: Recipe, overrides: Overrides = None) -> None:
    """Fine-tune a policy on demonstrations, before reinforcement learning: the cold start.

    Takes a recipe like `train`. It uses the sections sft, policy, learner, placement and tracking. Only the policy's
    own words enter the loss. Writes a run folder; `train` can start from its checkpoint.

    \b
    Examples:
      router-r1 sft quickstart sft.demonstrations=demos.jsonl sft.lr=2e-4
      router-r1 sft router_r1_qwen3b 'sft.demonstrations=[a.jsonl, b.jsonl]' sft.epochs=3
      router-r1 train router_r1_qwen3b policy.checkpoint=runs/NAME/checkpoints/step_000042
    """
    from cluster.config.loading import load_config
    from cluster.runs.folder import RunFolder, default_name

    config = load_config(recipe, overrides or ())
    config = _named(config, f"sft-{default_name(recipe)}")
    folder = RunFolder(config.run.folder / str(config.run.name))
    from cluster.session.logs import log_to_terminal, quiet_libraries

    quiet_libraries()
    log_to_terminal()
    with stoppable(folder.saved):
        import cluster.training.sft

        cluster.training.sft.fine_tune(config, recipe)


def _named(config: Config, name: str) -> Config:
    """The configuration with a name for the run, so that the message after a stop can state its folder."""
    if config.run.name is not None:
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})
