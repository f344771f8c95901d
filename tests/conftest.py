"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from postgres import PostgresServer

# No deadline for examples: a busy machine is not the code's fault.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# A shell's background job, as these tests may be, ignores SIGINT and passes that on to the programs that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: started last, they would still run when the other workers have nothing left.

    The Makefile's --no-loadscope-reorder keeps pytest-xdist from sorting the files by their number of tests.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session, in which each test makes its own database."""
    from postgres import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.engine)])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database for a ledger; the test runs once with each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for the whole session, for tests that use Ray in this process. Programs under test start their own."""
    import ray

    # Workers import actors from test modules. The packages' folder comes first: folders here have the same names.
    here = Path(__file__).parent
    folders = [here.parent, *sorted({path.parent for path in here.rglob("test_*.py")} - {here}), here]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        for last in (False, False, True):  # on a busy machine Ray may miss its own 30 s limit
            try:
                ray.init(
                    address="local",
                    num_cpus=4,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    log_to_driver=False,
                )
                break
            except Exception as error:
                if last or "timed out during startup" not in str(error):
                    raise
    yield
    ray.shutdown()
