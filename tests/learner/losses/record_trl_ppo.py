"""Record the losses and gradients of TRL's PPO trainer for random tensors, as `trl_ppo.json` beside this file.

    python tests/learner/losses/record_trl_ppo.py path/to/trl/experimental/ppo/ppo_trainer.py VERSION

TRL removed its PPO trainer in 1.13.0, and the trainer computes its losses in the middle of `train`. So this script cuts
the statements from the clipped value to the loss out of the given file and runs them unchanged, in float64.
"""

from __future__ import annotations

import ast
import json
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

FIRST, LAST = "vpredclipped = torch.clamp(", "loss = pg_loss + args.vf_coef * vf_loss"
ROWS, WIDTH = 5, 9
CLIP, VALUE_CLIP = 0.2, 0.3


def run_trl(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run TRL's statements on the given variables; return all variables afterwards, by name."""
    lines = source.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip().startswith(FIRST))
    end = next(i for i, line in enumerate(lines) if i > begin and line.strip() == LAST)
    helpers = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "masked_mean"]
    scope: dict[str, Any] = {"torch": torch, **names}
    for node in helpers:
        exec(compile(ast.Module([node], []), "helpers", "exec"), scope)
    exec(compile(textwrap.dedent("\n".join(lines[begin : end + 1])), "losses", "exec"), scope)
    return scope


def main(path: Path, version: str) -> None:
    generator = torch.Generator().manual_seed(20261125)

    def normal(scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)

    new, values, returns, advantages = normal().abs().neg(), normal(), normal(), normal()
    old, old_values = new + normal(0.4), values + normal(0.5)
    padding = torch.arange(WIDTH) >= torch.tensor([[9], [1], [4], [8], [9]])
    new.requires_grad_()
    values.requires_grad_()
    names = {
        "new_logprobs": new,
        "mb_logprobs": old,
        "mb_advantage": advantages,
        "vpred": values,
        "mb_values": old_values,
        "mb_return": returns,
        "padding_mask": padding,
        "padding_mask_p1": padding,
        "micro_batch_inds": slice(None),
        "args": SimpleNamespace(cliprange=CLIP, cliprange_value=VALUE_CLIP, vf_coef=1.0),
    }
    got = run_trl(path.read_text(encoding="utf-8"), names)
    got["loss"].backward()
    kept = ~padding
    tokens = {
        "new": new, "old": old, "advantages": advantages, "values": values, "old_values": old_values,
        "returns": returns, "new_grad": new.grad, "values_grad": values.grad,
    }  # fmt: skip
    recorded: dict[str, Any] = {"made_by": f"trl {version}, trl/experimental/ppo/ppo_trainer.py"}
    recorded |= {"clip": CLIP, "value_clip": VALUE_CLIP}
    recorded |= {"policy_loss": got["pg_loss"].item(), "value_loss": got["vf_loss"].item()}
    recorded |= {"value_clipped": got["vf_clipfrac"].item()}
    recorded |= {"tokens": {name: tensor.detach()[kept].tolist() for name, tensor in tokens.items()}}
    (Path(__file__).parent / "trl_ppo.json").write_text(json.dumps(recorded) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
