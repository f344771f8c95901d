"""The plan of `router-r1 train`: a new run, or an existing one to resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cluster.config.loading import ConfigError, load_config
from cluster.config.settings import Config
from cluster.runs.files import RunFolderError
from cluster.runs.folder import RunFolder, default_name
from cluster.runs.mirror import Mirror


def plan_run(
    recipe: str | None, overrides: Sequence[str], resume: str | None, *, look_only: bool = False
) -> tuple[str, Config, bool]:
    """The recipe, the configuration with the run's name in it, and whether an existing run is resumed.

    Args:
        recipe: name or file; with `resume`, None or the first override.
        resume: the folder of a run to resume with its own configuration, or the URL of its mirror, from which the run
            is fetched into `runs/`.
        look_only: do not fetch the run that `run.mirror` holds. A run whose mirror `resume` names is fetched even so,
            for its configuration.

    Raises:
        ConfigError: `recipe` and `resume` are both given or both missing, or the configuration can't be used.
        RunFolderError: `resume` is not the folder of a run.
        MirrorError: a mirror can't be read, or the folder for its run is not empty.
    """
    if resume is None:
        if recipe is None:
            raise ConfigError("a recipe is missing: name one (`router-r1 recipes` lists them), or --resume RUN")
        config = load_config(recipe, overrides)
        config = _in_folder(config, config.run.folder, config.run.name or default_name(recipe))
        path = config.run.folder / str(config.run.name)
        there = RunFolder(path).config_file.is_file()
        if not there and config.run.if_exists == "resume" and config.run.mirror is not None:
            mirror = Mirror(f"{config.run.mirror.rstrip('/')}/{config.run.name}")
            if (there := mirror.has_run()) and not look_only:
                mirror.fetch(path)
        return recipe, config, there and config.run.if_exists == "resume"
    if recipe is not None and "=" not in recipe:
        raise ConfigError(f"--resume goes on with the run's own recipe, and {recipe!r} was given, too; leave one out")
    if "://" in resume:
        path = Path("runs", PurePosixPath(resume).name)
        Mirror(resume).fetch(path)
    else:
        path = Path(resume)
    file = RunFolder(path).config_file
    if not file.is_file():
        raise RunFolderError(f"{resume}: holds no config.yaml, so it is no run; give the folder of one (runs/NAME)")
    config = load_config(str(file), [*filter(None, [recipe]), *overrides])
    folder = path.absolute()
    return str(file), _in_folder(config, folder.parent, folder.name), True


def _in_folder(config: Config, folder: Path, name: str) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"folder": folder, "name": name})})
