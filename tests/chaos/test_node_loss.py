"""A whole node is lost: its raylet is killed with -9, and what ran there goes on on another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from struck import Struck

pytestmark = [pytest.mark.engine, pytest.mark.slow]

STEPS = 6
_STORE_BYTES = 100 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes of which neither has room for the whole run: learner, two workers (0.5 CPUs each), caller (0.1)."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1.2, "object_store_memory": _STORE_BYTES})
    try:
        yield made
    finally:
        made.shutdown()


def test_a_node_is_lost_and_another_takes_its_place(cluster: Cluster, tmp_path: Path) -> None:
    doomed = cluster.add_node(num_cpus=0.6, object_store_memory=_STORE_BYTES)
    run = Struck(
        tmp_path, "moved", f"run.steps={STEPS}", "run.checkpoint_every=1", f"placement.address={cluster.address}",
        "placement.rollout_workers=2", "candidates.pool.callers=1",
    )  # fmt: skip
    try:
        run.wait_for_log("step 2: roll out")
        time.sleep(0.3)
        doomed.kill_raylet(check_alive=False)
        cluster.add_node(num_cpus=0.6, object_store_memory=_STORE_BYTES)
        run.finish(400)
    finally:
        run.program.process.kill()
        run.program.left()
    run.check(STEPS)
    log = run.folder.log_file.read_text()
    assert "is lost" in log or "learner gang restarted" in log
