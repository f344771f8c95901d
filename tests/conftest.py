"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from durations import Durations
from hypothesis import settings

if TYPE_CHECKING:
    from postgres import PostgresServer

# One thread each, before NumPy or torch is imported: tests run side by side, and idle threads of theirs spin on the
# cores that others need. Programs under test inherit it; ranks and engines have settings of their own.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# No deadline for examples: a busy machine is not the code's fault.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# A shell's background job, as these tests may be, ignores SIGINT and passes that on to the programs that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


# No garbage is looked for among the hundreds of thousands of objects that imports make, nor later on.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """Have durations added up where the reports of all tests arrive."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(engines=config.option.markexpr == "engine"))


def pytest_collection_finish() -> None:
    """From here on what the tests themselves leave is collected, as ever."""
    gc.freeze()
    gc.enable()


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
