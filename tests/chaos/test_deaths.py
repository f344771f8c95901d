"""A run outlives the death of its parts: real processes are killed with -9 or frozen, one after the other."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from struck import Struck, write_inputs

from benchmarks.world.process import spawn_server, stop_server

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 30
DOWN_S = 20.0
SERVER = ["world", "--latency-scale", "0.5"]


def test_workers_ranks_callers_and_providers_die_and_the_run_goes_on(tmp_path: Path) -> None:
    """Two workers, two callers and two providers; ten blows, each while the process that it hits is at work."""
    (steady, steady_url), (shaky, shaky_url) = spawn_server(SERVER), spawn_server(SERVER)
    cards, questions = write_inputs(tmp_path, (steady_url, shaky_url))
    run = Struck(
        tmp_path, "struck", f"run.steps={STEPS}", "run.checkpoint_every=2", "placement.rollout_workers=2",
        "placement.max_worker_restarts=10", "learner.max_restarts=5", "candidates.serve=none",
        f"candidates.pool.cards={cards}", "candidates.pool.callers=2", "candidates.pool.caller_restarts=3",
        "candidates.pool.total_timeout_s=20", f"data.train={questions}", f"data.eval={questions}",
    )  # fmt: skip
    try:
        for moment, title, pause_s in (
            ("step 1: roll out", "VLLM::EngineCore", 0.3),
            ("step 2: roll out", "ray::RolloutWorker", 0.3),
            ("step 3: roll out", "ray::CandidateCaller", 0.3),
            ("step 4: learn", "ray::RankProcess", 0.1),
            ("step 5: sync", "VLLM::EngineCore", 0.0),
            ("step 6: sync", "ray::RankProcess", 0.0),
            ("step 7: sync", "ray::RolloutWorker", 0.05),
        ):
            run.wait_for_log(moment)
            time.sleep(pause_s)
            run.kill(title)
        run.wait_until(lambda: run.writes_checkpoint(8), "write checkpoint 8")
        run.kill("ray::RankProcess")

        run.wait_for_log("step 10: roll out")
        shaky.kill()
        shaky.wait()
        gone = time.monotonic()
        run.wait_for_log("step 12: learn", 120)  # the run goes on meanwhile
        time.sleep(max(gone + DOWN_S - time.monotonic(), 0))
        last_down = run.folder.read_metrics()[-1]["step"]
        shaky, _ = spawn_server(SERVER, port=int(urlsplit(shaky_url).port or 0))

        run.wait_for_log("roll out")
        shaky.send_signal(signal.SIGSTOP)  # as if the network lost all packets
        time.sleep(8)
        shaky.send_signal(signal.SIGCONT)
        run.finish()
    finally:
        run.program.process.kill()
        run.program.left()
        stop_server(steady)
        stop_server(shaky)
    run.check(STEPS)
    log = run.folder.log_file.read_text()
    assert len(re.findall(r"rollout worker \d is lost", log)) >= 4
    assert len(re.findall(r"learner gang restarted from batch [1-9]", log)) >= 2
    rows = run.folder.read_metrics()
    assert rows[-1]["rollout/worker_restarts"] >= 4
    down = [row for row in rows[11 : last_down + 1] if row["pool/breakers_open"]]
    assert down, "no step saw the breaker open"
    assert any(row["rollout/void_share"] > 0 for row in down)
    assert last_down < STEPS - 5, "the run was over before the provider came back"
    assert rows[-1]["pool/breakers_open"] == 0
    assert rows[-1]["rollout/void_share"] == 0
    trained = run.trained()
    assert sum(map(len, trained.values())) >= 0.9 * 4 * STEPS  # a group that lost too many members is in no batch
