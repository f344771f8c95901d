"""Submission: a training run as a Ray job, with the code and inputs it needs, followed to its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.child_process import ROOT, SAFE_PATH
from actors.errors import ExplainedError
from actors.pool.cards import find_pool, load_cards
from benchmarks.questions.sources import file_source, is_named
from cluster.config.loading import load_config
from cluster.config.settings import Config
from cluster.runs.folder import default_name
from cluster.session.one_root import PACKAGES
from cluster.tracking.wandb_run import KEY_VARIABLE

_RAY_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_CONNECT_TIMEOUT_S = 10.0
_REPLY_TIMEOUT_S = 300.0  # uploading the working directory included
_END_TIMEOUT_S = 60.0  # from the end of the log to the end of the job
_LOST_CONTACT = 5  # consecutive failures to follow the log


class SubmitError(ExplainedError, RuntimeError):
    """A job that can't be submitted or followed; the message names the cluster's address and the remedy."""


class FollowingStopped(KeyboardInterrupt):
    """Ctrl-C was pressed while a log was followed; the job goes on, and the message says how to stop it."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What is sent to the cluster: the command, local files, and the names of the keys."""

    entrypoint: str
    files: dict[str, Path]  # name in the working directory -> local file
    key_variables: tuple[str, ...]  # set here; their values are sent
    missing_keys: tuple[str, ...]  # named by a card, but not set here
    notes: tuple[str, ...]  # what the user should know

    def describe(self) -> str:
        """The submission as text, for `--dry-run`; of the keys only the names."""
        rows = [f"entrypoint: {self.entrypoint}", f"working directory: {', '.join(PACKAGES)}"]
        rows += [f"  and {source} as {name}" for name, source in self.files.items()]
        rows += [f"environment: {name} (its value is not shown)" for name in self.key_variables]
        rows += [f"environment: {name} is not set here; it must be on the cluster" for name in self.missing_keys]
        return "\n".join([*rows, *(f"note: {note}" for note in self.notes)])


def plan(recipe: str, overrides: Sequence[str] = ()) -> Submission:
    """Find out what a run needs on the cluster, from its checked configuration.

    Local files that the configuration names (recipe, questions, replies, cards) are sent with the job; all other paths
    that it names must exist on the cluster.

    Raises:
        ConfigError: the configuration can't be used.
        CardError: the card file can't be used.
    """
    config = load_config(recipe, overrides)
    files: dict[str, Path] = {}
    notes: list[str] = []

    def travel(path: Path) -> str:
        if not path.is_file():
            notes.append(f"{path} is not here; it must be on the cluster, at that path")
            return str(path)
        name = f"inputs/{len(files)}/{path.name}"  # keeps the file's name, which may name a question set
        files[name] = path
        return name

    sent = travel(Path(recipe)) if recipe.endswith((".yaml", ".yml")) else recipe
    moved = _moved(config, travel)
    extra = [f"{key}={json.dumps(value)}" for key, value in moved.items()]
    if config.placement.address is None:
        extra.append("placement.address=auto")
    if config.run.name is None:
        extra.append(f"run.name={default_name(recipe)}")  # the same name each time the job is started
    if "if_exists" not in config.run.model_fields_set:
        extra.append("run.if_exists=resume")  # a job that is started again resumes its run
    if not config.run.folder.is_absolute():
        notes.append(
            f"run.folder={config.run.folder} is relative: it goes away with the job's working directory; "
            "set run.folder to an absolute path on storage that stays"
        )
    if Path(config.policy.checkpoint).is_dir():
        notes.append(f"policy.checkpoint={config.policy.checkpoint} is a folder; it must be there on the cluster, too")
    keys = _key_variables(config)
    return Submission(
        entrypoint=shlex.join(["python", "-m", "cluster.cli", "train", sent, *overrides, *extra]),
        files=files,
        key_variables=tuple(key for key in keys if os.environ.get(key)),
        missing_keys=tuple(key for key in keys if not os.environ.get(key) and key != KEY_VARIABLE),
        notes=tuple(notes),
    )


def submit(submission: Submission, address: str, emit: Callable[[str], None], *, forward_keys: bool = True) -> int:
    """Submit the job to the Ray cluster at `address`, pass its log to `emit`, and return its exit status.

    With `forward_keys` the values of the key variables are sent in the job's environment, where everyone with access
    to the cluster's dashboard can see them.

    Raises:
        SubmitError: the cluster does not answer, rejects the job, or stops answering.
        FollowingStopped: Ctrl-C; the job goes on.
    """
    keys = submission.key_variables if forward_keys else ()
    job = f"router-r1-{uuid.uuid4().hex[:12]}"  # chosen here, so that it is known even after an early Ctrl-C
    emit(f"submitting job {job} to {address}\n")
    with tempfile.TemporaryDirectory(prefix="router-r1-submit-") as folder, _answering(address):
        _stage(submission, Path(folder))
        client = _connect(address)
        client.submit_job(
            submission_id=job,
            entrypoint=submission.entrypoint,
            runtime_env={"working_dir": folder, "env_vars": SAFE_PATH | {key: os.environ[key] for key in keys}},
        )
    emit(f"job {job} submitted to {address}\n")
    try:
        asyncio.run(_follow(client, job, address, emit))
        with _answering(address):
            return _exit_status(client, job, address)
    except KeyboardInterrupt:
        raise FollowingStopped(
            f"no longer following; job {job} goes on. Stop it with\n  ray job stop {job} --address {address}\n"
            f"or follow it again with\n  ray job logs {job} --follow --address {address}"
        ) from None


def _moved(config: Config, travel: Callable[[Path], str]) -> dict[str, Any]:
    """Configuration keys that name local files, with the files' places in the job's working directory."""
    moved: dict[str, Any] = {}
    for key, sources in (("data.train", config.data.train), ("data.eval", config.data.eval)):
        sent = [_sent(source, travel) for source in sources]
        if sent != list(sources):
            moved[key] = sent
    if config.candidates.replies is not None:
        moved["candidates.replies"] = travel(config.candidates.replies)
    for key, cards in _card_files(config).items():
        if find_pool(cards) == cards:  # else it is a pool that ships with the code, which is sent
            moved[key] = travel(cards)
    return moved


def _sent(source: str, travel: Callable[[Path], str]) -> str:
    """A source of questions under its name on the cluster: a file has a new path, and keeps its columns."""
    if is_named(source):
        return source
    path, _ = file_source(source)
    return travel(path) + source.removeprefix(str(path))


def _card_files(config: Config) -> dict[str, Path]:
    named = {
        "candidates.pool.cards": config.candidates.pool.cards,
        "candidates.unseen_cards": config.candidates.unseen_cards,
    }
    return {key: cards for key, cards in named.items() if cards is not None}


def _key_variables(config: Config) -> list[str]:
    files = [file for cards in _card_files(config).values() if (file := find_pool(cards)).is_file()]
    keys = {card.api_key_env for file in files for card in load_cards(file) if card.api_key_env}
    if (config.candidates.pool.ledger_url or "").startswith("postgresql"):
        keys.add("PGPASSWORD")
    return [KEY_VARIABLE, *sorted(keys)]


def _stage(submission: Submission, folder: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name, source in submission.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, folder / name)


@contextlib.contextmanager
def _own_address() -> Iterator[None]:
    """Hide Ray's address variables, which Ray would prefer to the address it is given."""
    kept = {name: os.environ.pop(name) for name in _RAY_ADDRESSES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _connect(address: str) -> Any:
    """Ray's client of a job server, with deadlines, which Ray's own requests lack."""
    if not address.startswith(("http://", "https://")):
        raise SubmitError(f"address {address!r}: expected the dashboard's URL, such as http://HEAD-NODE:8265")
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]  # mypy does not follow Ray
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=(_CONNECT_TIMEOUT_S, _REPLY_TIMEOUT_S), **options)

    with _own_address():
        return Client(address)


@contextlib.contextmanager
def _answering(address: str) -> Iterator[None]:
    """Turn the errors of Ray's client into one error that names the address."""
    from ray.exceptions import AuthenticationError, RayError

    try:
        yield
    except AuthenticationError as error:
        raise SubmitError(
            f"the job server at {address} wants the cluster's token; set RAY_AUTH_MODE=token and give Ray the token "
            "(RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN)"
        ) from error
    except (RuntimeError, OSError, RayError) as error:  # errors of `requests` are OSErrors
        if isinstance(error, SubmitError):
            raise
        raise SubmitError(
            f"the job server at {address} failed: {error}; is this the URL of a Ray dashboard?"
        ) from error


async def _follow(client: Any, job: str, address: str, emit: Callable[[str], None]) -> None:
    """Pass the log to `emit` until the job ends; after a broken connection, go on where it broke."""
    import aiohttp

    seen = failures = 0
    while True:
        position = 0
        try:
            async for chunk in client.tail_job_logs(job):
                position += len(chunk)
                if position > seen:
                    emit(chunk[max(0, len(chunk) - (position - seen)) :])
                    seen, failures = position, 0
            return
        except (RuntimeError, aiohttp.ClientError, OSError) as error:
            failures += 1
            if failures >= _LOST_CONTACT:
                raise SubmitError(
                    f"lost contact with {address} ({error}); job {job} may go on: "
                    f"ray job logs {job} --follow --address {address}"
                ) from error
            await asyncio.sleep(failures)


def _exit_status(client: Any, job: str, address: str) -> int:
    """0 if the job succeeded; otherwise its own exit code, or 1 if it has none."""
    from ray.job_submission import JobStatus

    deadline = time.monotonic() + _END_TIMEOUT_S
    while time.monotonic() < deadline:
        info = client.get_job_info(job)
        if info.status == JobStatus.SUCCEEDED:
            return 0
        if info.status.is_terminal():
            return int(info.driver_exit_code or 1)
        time.sleep(0.2)
    raise SubmitError(
        f"job {job} at {address} closed its log but did not end within {_END_TIMEOUT_S:g} s; "
        f"see ray job status {job} --address {address}"
    )
