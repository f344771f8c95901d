"""A node joins during a run and is lost: a worker joins with it, and the node's raylet is killed with -9."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from struck import Struck

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 18  # enough to last until the third engine has started
_STORE_BYTES = 100 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A node with room for the learner, two workers (0.5 CPUs each) and the caller (0.1), and for no third worker."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": _STORE_BYTES})
    try:
        yield made
    finally:
        made.shutdown()


def test_a_worker_joins_with_a_node_and_is_lost_with_it(cluster: Cluster, tmp_path: Path) -> None:
    run = Struck(
        tmp_path, "elastic", f"run.steps={STEPS}", f"placement.address={cluster.address}",
        "placement.rollout_workers=3", "placement.min_rollout_workers=2", "candidates.latency_scale=0.5",
    )  # fmt: skip
    try:
        run.wait_for_log("step 1: roll out")  # with two workers
        node = cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
        run.wait_for_log("rollout worker 2 joins")
        run.wait_for_log("roll out")
        time.sleep(0.3)
        node.kill_raylet(check_alive=False)
        run.finish()
    finally:
        run.program.process.kill()
        run.program.left()
    run.check(STEPS)
    assert "rollout worker 2 is lost" in run.folder.log_file.read_text()
