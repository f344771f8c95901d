"""The public surface of Router-R1, the trainer: the names that other programs may use (`docs/public_surface.md`).

    import router_r1

    run = router_r1.train("quickstart", ["run.steps=10"])
    table = router_r1.evaluate(router_r1.EvaluationOptions(str(run), baselines=("random", "knn")))

Importing it takes half a second, because torch, Ray and vLLM are imported only by the functions that need them.
Training and answering start processes, so a script needs the usual `if __name__ == "__main__":` around its code.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.session.one_root import intruder

if (_message := intruder()) is not None:  # first: an import below would run the file that is in the way
    raise ImportError(_message)

from actors.episodes.trajectory import Trajectory
from actors.pool.calls import CallRequest
from actors.pool.cards import CardError, ModelCard, find_pool, load_cards
from actors.pool.settings import PoolSettings
from actors.questions import Question, QuestionError
from cluster.config.loading import ConfigError, load_config, recipe_names
from cluster.config.settings import Config, DataSettings
from rewards.presets import Judge, RewardBreakdown
from rewards.settings import RewardSettings
from rewards.text import read_transcript
from rewards.transcript import CallStatus, RouteCall, StopReason, Transcript

if TYPE_CHECKING:
    from actors.pool.caller import CandidateCaller
    from cluster.evaluation.options import EvaluationOptions
    from cluster.players.responder import Ask, Responder

__all__ = [
    "Ask",
    "CallRequest",
    "CallStatus",
    "CandidateCaller",
    "CardError",
    "Config",
    "ConfigError",
    "EvaluationOptions",
    "Judge",
    "ModelCard",
    "PoolSettings",
    "Question",
    "QuestionError",
    "Responder",
    "RewardBreakdown",
    "RewardSettings",
    "RouteCall",
    "StopReason",
    "Trajectory",
    "Transcript",
    "evaluate",
    "find_pool",
    "load_cards",
    "load_config",
    "load_questions",
    "open_policy",
    "read_transcript",
    "recipe_names",
    "train",
]

# Names whose modules import heavy libraries; each is imported at its first use.
_LATE = {
    "Ask": ("cluster.players.responder", "Ask"),
    "CandidateCaller": ("actors.pool.caller", "CandidateCaller"),
    "EvaluationOptions": ("cluster.evaluation.options", "EvaluationOptions"),
    "Responder": ("cluster.players.responder", "Responder"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are in {__name__}.__all__")
    module, original = _LATE[name]
    return getattr(import_module(module), original)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_questions(source: str, limit: int | None = None) -> list[Question]:
    """The questions of a source, named as in `data.train`: a file, a set by name, `world:train` or `world:heldout`.

        questions = router_r1.load_questions("questions.csv:id=#:question=query:answers=gold", limit=100)

    Raises:
        QuestionError: the source is unknown, missing or malformed.
    """
    from benchmarks.questions.sources import load_source

    return load_source(source, limit=limit, two_hop_share=DataSettings().two_hop_share)


def train(
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: str | Path | None = None,
    force: bool = False,
) -> Path:
    """Train a policy as `router-r1 train` does, and return the run's folder.

        run = router_r1.train("quickstart", ["run.steps=10", "rewards.alpha=0.6"])
        run = router_r1.train(resume=run, overrides=["run.steps=20"])

    Args:
        recipe: the name of a recipe, or a YAML file; None with `resume`.
        overrides: `dotted.key=value`, as on the command line.
        resume: the folder of a run, or the URL of its mirror; training continues from its newest checkpoint.
        force: continue even with settings that change the course of learning.

    Raises:
        ConfigError: the recipe or an override can't be used. The messages of other errors also state the remedy.
        KeyboardInterrupt: Ctrl-C; the progress is saved.
    """
    from cluster.session.logs import quiet_libraries
    from cluster.training.plan import plan_run

    recipe, config, goes_on = plan_run(recipe, overrides, None if resume is None else str(resume))
    quiet_libraries()  # before their import
    from cluster.training.loop import train as train_configured

    return train_configured(config, recipe, resume=goes_on, force=force)


def evaluate(
    options: EvaluationOptions,
    say: Callable[[str], None] = print,
    told: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Evaluate as `router-r1 evaluate` does, and return the folder with `table.md`, `evaluation.json` and the items.

        folder = router_r1.evaluate(router_r1.EvaluationOptions("world", baselines=("random", "knn"), limit=100))
        print((folder / "table.md").read_text())

    Args:
        say: is called with each note, one line.
        told: is called on progress, with the number of finished answers, the number of all answers, and dollars spent.

    Raises:
        EvaluateError: options contradict each other, or there is no result. The messages of this and other errors
            state the remedy.
    """
    from cluster.session.logs import quiet_libraries

    quiet_libraries()  # before their import
    from cluster.evaluation.evaluate import evaluate as evaluate_target

    return evaluate_target(options, say, told or (lambda done, wanted, usd: None))


@asynccontextmanager
async def open_policy(
    policy: str | Path, recipe: str = "quickstart", overrides: Sequence[str] = ()
) -> AsyncIterator[Responder]:
    """Start the policy of a run, of a checkpoint or of the world, with its candidates; both end with the block.

        async with router_r1.open_policy("runs/NAME") as policy:
            trajectory = await policy.respond(router_r1.Ask("what is the comet of lanu ?"))
            print(trajectory.transcript.answer, trajectory.transcript.cost_usd)

    Questions may be asked concurrently. `recipe` gives the settings that a checkpoint without a run lacks.

    Raises:
        ConfigError: the run's configuration, the recipe or an override can't be used. The messages of other errors
            also state the remedy.
    """
    from cluster.session.logs import quiet_libraries

    quiet_libraries()  # before their import
    from cluster.episodes.candidates import start_candidates
    from cluster.players.responder import Responder, open_source

    source = open_source(policy, recipe, overrides)
    with start_candidates(source.config) as candidates:
        responder = Responder(source, candidates.cards)
        await responder.start()
        try:
            yield responder
        finally:
            await responder.close()
