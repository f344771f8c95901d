"""The critic: predicts the reward still to come, just before each sampled token.

There are two kinds. `CriticModel` is a separate model that reads the tokens. `ValueHead` reads the policy's last
hidden states, detached, so that the value loss does not change the policy and needs no coefficient. Each has its own
DeepSpeed engine and learning rate. Both predict 0 at the start, so that at lambda 1 the first batch's advantages,
before whitening, are its discounted rewards.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from learner.attention import packed_inputs
from learner.policy import load_model


class ValueHead(nn.Module):
    """A linear map from hidden states to values, in units of reward."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, bias=True, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values `[n]` float32 of hidden states `[n, width]`."""
        return self.linear(hidden)[:, 0].float()


class CriticModel(nn.Module):
    """A language model with a value head in place of its output head."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, *, gradient_checkpointing: bool) -> None:
        """Start from a checkpoint in Hugging Face format.

        Raises:
            FileNotFoundError: `checkpoint` holds no config.json.
        """
        super().__init__()
        whole = load_model(checkpoint, dtype)
        if gradient_checkpointing:
            whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = whole.base_model
        self.head = ValueHead(whole.get_input_embeddings().embedding_dim, dtype)

    def forward(self, token_ids: Tensor, boundaries: Tensor, positions: Tensor) -> Tensor:
        """Values `[n]` float32 of the states after the tokens at `positions` `[n]`.

        `token_ids` `[T]` are S sequences end to end; `boundaries` `[S + 1]` int32 are their starts, and T.
        """
        hidden = self.model(**packed_inputs(token_ids, boundaries)).last_hidden_state
        return self.head(hidden[0, positions])
