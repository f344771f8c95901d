"""`router-r1 world`: serves the embedded world's experts, and makes its small policy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.output import stoppable

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The embedded world: its experts and small policy.")


@app.command("serve")
def world_serve(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free port.", min=0, max=65535)] = 8900,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
    replies: Annotated[
        Path | None, typer.Option(help="Serve these recorded replies of real models instead of the world's experts.")
    ] = None,
    latency_scale: Annotated[float, typer.Option(help="Factor on latencies; 0 answers at once.", min=0)] = 1.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="`NAME=RATE`, may be repeated: rate_limit, server_error, hang, refusal, …"),
    ] = None,
    fault_seed: Annotated[int, typer.Option(help="Seed of the faults.")] = 0,
) -> None:
    """Serve the candidate experts, without a policy, until stopped."""
    from benchmarks.world.server import main as serve_candidates

    mode = ["recorded", "--replies", str(replies)] if replies else ["world", "--seed", str(seed)]
    address = ["--host", host, "--port", str(port), "--latency-scale", str(latency_scale)]
    faults = [part for rate in fault or () for part in ("--fault", rate)]
    serve_candidates([*mode, *address, *faults, "--fault-seed", str(fault_seed)])


@app.command("coldstart")
def world_coldstart(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    steps: Annotated[int | None, typer.Option(help="Supervised steps; 2400, or 1400 with --budgets.", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Demonstrations per step.", min=1)] = 32,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; 0.002, or 0.0015 with --budgets.")] = None,
    budgets: Annotated[
        bool, typer.Option("--budgets", help="Start from the shipped policy, and teach it to read budgets.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of weights and demonstrations.")] = 0,
) -> None:
    """Make the world's small cold-started policy.

    It is trained by supervised fine-tuning on demonstrations, from random weights. The package ships such a policy, and
    another one made from it with --budgets.
    """
    from benchmarks.world.coldstart import make_budget_checkpoint, make_checkpoint
    from cluster.session.logs import quiet_libraries

    quiet_libraries()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with stoppable():
        make = make_budget_checkpoint if budgets else make_checkpoint
        given: dict[str, Any] = {name: value for name, value in (("steps", steps), ("lr", lr)) if value is not None}
        losses = make(out, batch_size=batch_size, seed=seed, **given)
    typer.echo(f"{out}: {len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
