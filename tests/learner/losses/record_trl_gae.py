"""Record the results of TRL's PPO trainer for random tensors, as `trl_gae.json` beside this file.

    python tests/learner/losses/record_trl_gae.py path/to/trl/experimental/ppo/ppo_trainer.py VERSION

TRL removed its PPO trainer in 1.13.0, and the trainer computes GAE in the middle of `train`. So this script cuts the
statements from the padding masks to the whitened advantages out of the given file and runs them unchanged, in float64.
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

FIRST, LAST = "response_idxs = torch.arange(", "advantages = torch.masked_fill(advantages, padding_mask, 0)"
HELPERS = ("masked_mean", "masked_var", "masked_whiten")


def run_trl(source: str, tensors: dict[str, torch.Tensor], args: SimpleNamespace) -> dict[str, torch.Tensor]:
    """Run TRL's statements on `tensors`; return all variables afterwards, by name."""
    lines = source.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip().startswith(FIRST))
    end = next(i for i, line in enumerate(lines) if i > begin and line.strip() == LAST)
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name in HELPERS]
    scope: dict[str, Any] = {"torch": torch, "args": args, "INVALID_LOGPROB": 1.0, **tensors}
    for node in functions:
        exec(compile(ast.Module([node], []), "helpers", "exec"), scope)
    exec(compile(textwrap.dedent("\n".join(lines[begin : end + 1])), "gae", "exec"), scope)
    return scope


def main(path: Path, version: str) -> None:
    source = path.read_text(encoding="utf-8")
    generator = torch.Generator().manual_seed(20261124)
    cases = []
    for gamma, lam, kl_coef in ((1.0, 0.95, 0.05), (0.9, 0.5, 0.0), (0.97, 1.0, 0.2), (1.0, 0.0, 0.1)):
        logprobs, ref_logprobs = -torch.rand(2, 5, 9, generator=generator, dtype=torch.float64)
        tensors = {
            "responses": torch.zeros(5, 9, dtype=torch.int64),
            "logprobs": logprobs,
            "ref_logprobs": ref_logprobs,
            "values": torch.randn(5, 9, generator=generator, dtype=torch.float64),
            "scores": torch.randn(5, generator=generator, dtype=torch.float64),
            "sequence_lengths": torch.tensor([8, 0, 3, 7, 8]),  # index of the last token
        }
        args = SimpleNamespace(gamma=gamma, lam=lam, kl_coef=kl_coef, kl_estimator="k1", whiten_rewards=False)
        got = run_trl(source, tensors, args)
        case = {"gamma": gamma, "lam": lam, "kl_coef": kl_coef}
        case |= {name: tensor.tolist() for name, tensor in tensors.items() if name != "responses"}
        cases.append(case | {"returns": got["returns"].tolist(), "whitened": got["advantages"].tolist()})
    recorded = {"made_by": f"trl {version}, trl/experimental/ppo/ppo_trainer.py", "cases": cases}
    (Path(__file__).parent / "trl_gae.json").write_text(json.dumps(recorded) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
