"""Starts or joins Ray. Its workers import our packages from this process's root, never a user's file of that name."""

from __future__ import annotations

from typing import Any

import ray
from ray.job_config import JobConfig

from actors.child_process import child_variables, environment, own_path


class _OwnPath(JobConfig):  # type: ignore[misc]  # Ray is not followed
    """Ray puts the driver's working directory and its script's folder first on the path of the driver's workers.

    With this class, the workers get our packages' folder instead. Ray has no public option for that.
    """

    def _get_proto_job_config(self) -> Any:
        self._py_driver_sys_path = own_path()
        return super()._get_proto_job_config()


def init_ray(**options: Any) -> None:
    """`ray.init` with these options."""
    with environment(child_variables()):  # inherited by the workers of a Ray that starts here
        ray.init(job_config=_OwnPath(), **options)


def init_own_ray(num_cpus: int, **options: Any) -> None:
    """Start a Ray for this process alone, which listens on loopback only."""
    init_ray(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        **options,
    )
