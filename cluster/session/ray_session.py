"""The Ray session: joins a cluster, or starts Ray on this machine, for as long as a command needs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from actors.ray_start import init_ray
from cluster.session.address import cluster_address
from cluster.session.errors import CrewError
from cluster.session.reaper import start_reaper
from cluster.session.stopping import stop_on_sigterm

logger = logging.getLogger(__name__)

_RAY_STARTS = 3
_RAY_IS_LATE = "timed out during startup"
_OBJECT_STORE_BYTES = 256 * 2**20  # of Ray on this machine; trajectories are small, and weights do not pass here


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Join the cluster at `address`, or start Ray on this machine; leave or end it at the end.

    Raises:
        CrewError: Ray can't be joined or started.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    joined = cluster_address(address)
    if not joined:
        start_reaper()
    try:
        start_ray(joined)
        stop_on_sigterm()  # Ray has replaced our handler
        yield
    finally:
        ray.shutdown()


def start_ray(joined: str | None) -> None:
    """Join the cluster at an address, or start Ray here; try again if the machine is so busy that Ray gives up.

    Raises:
        CrewError: Ray can't be joined or started.
    """
    local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "num_cpus": os.cpu_count()}
    where = f"join the Ray cluster at {joined} (placement.address)" if joined else "start Ray on this machine"
    for attempt in range(1, _RAY_STARTS + 1):
        try:
            init_ray(
                address=joined or "local",  # never a cluster that happens to run here
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if joined else local),
            )
            return
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CrewError(f"can't {where}: {error}") from error
        except Exception as error:
            if _RAY_IS_LATE not in str(error):  # this error has no class of its own
                raise
            if attempt == _RAY_STARTS:
                raise CrewError(
                    f"can't {where}: it was not up within {attempt} times 30 s; look for what else keeps the machine "
                    "busy or short of memory"
                ) from error
            logger.warning("Ray was not up within 30 s on this busy machine; it is started once more")
