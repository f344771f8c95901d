"""Training of a small torch module on rows; it stops when the loss on validation rows stops falling."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch

_SET_ASIDE = 0.15  # share of the rows that are kept for validation
_EVERY = 5  # epochs between validations
_PATIENCE = 30  # epochs without a new best loss before training stops
_BATCH = 128

LossOf = Callable[[torch.Tensor], torch.Tensor]  # row numbers `[B]` -> their mean loss


def seeded(seed: int, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Make a module whose parameters are drawn with the seed; torch's global generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def minimise(
    module: torch.nn.Module,
    loss_of: LossOf,
    rows: int,
    *,
    seed: int,
    epochs: int = 150,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
) -> int:
    """Minimise a loss on rows with AdamW; return the number of the chosen epoch.

    15 % of the rows are kept for validation, and the module ends with its parameters of the epoch with the lowest
    validation loss. With fewer than 20 rows there is no validation, and the last epoch is chosen.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(rows)
    aside = torch.as_tensor(order[: int(_SET_ASIDE * rows)] if rows >= 20 else order[:0])
    kept = order[len(aside) :]
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
    best, best_epoch, state = float("inf"), 0, copy.deepcopy(module.state_dict())
    for epoch in range(epochs + 1):
        if len(aside) and epoch % _EVERY == 0:
            with torch.no_grad():
                loss = float(loss_of(aside))
            if loss < best:
                best, best_epoch, state = loss, epoch, copy.deepcopy(module.state_dict())
        if epoch == epochs or (len(aside) and epoch - best_epoch >= _PATIENCE):
            break
        draw.shuffle(kept)
        for start in range(0, len(kept), _BATCH):
            optimiser.zero_grad()
            loss_of(torch.as_tensor(kept[start : start + _BATCH])).backward()
            optimiser.step()
    if len(aside):
        module.load_state_dict(state)
        return best_epoch
    return epochs
