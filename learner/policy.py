"""The policy as the learner runs it: a Hugging Face causal language model that scores given tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from learner.losses import TokenScores, score_logits


def load_model(checkpoint: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a checkpoint directory with scaled-dot-product attention and without dropout.

    Dropout would make the trained policy another one than the sampler's: the first ratio would not be 1.

    Raises:
        FileNotFoundError: `checkpoint` holds no config.json.
    """
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(
            f"checkpoint={checkpoint} holds no config.json; give a directory in Hugging Face format"
        )
    config = AutoConfig.from_pretrained(checkpoint)
    for name in [name for name in vars(config) if "dropout" in name or name.endswith("pdrop")]:
        setattr(config, name, 0.0)
    return AutoModelForCausalLM.from_pretrained(checkpoint, config=config, dtype=dtype, attn_implementation="sdpa")


class TokenScorer(nn.Module):
    """Scores target tokens. The output head runs on the trained positions only, in chunks if there are many.

    Chunks are recomputed in the backward pass, so that the float32 logits of only one stand in memory. The
    model's own forward pass would compute logits for every token, prompt and padding included.
    """

    def __init__(self, model: PreTrainedModel, *, entropy_grad: bool = False) -> None:
        super().__init__()
        self.model = model
        self.entropy_grad = entropy_grad

    def forward(
        self, token_ids: Tensor, positions: Tensor, targets: Tensor, temperature: float, chunks: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies `[n]` of `targets` `[n]`.

        `token_ids` is `[B, T]`, padded on the right; `positions` `[n]` index the flattened `B*T` at the
        tokens before the targets. `chunks` must be the same on all ranks: under ZeRO-3 each gathers the head.
        """
        hidden = self.model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
        hidden = hidden.flatten(0, 1)[positions]
        if chunks == 1:
            return self._score(hidden, targets, temperature)
        scores = [
            recompute(self._score, part, wanted, temperature, use_reentrant=False)
            for part, wanted in zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True)
        ]
        return torch.cat([s[0] for s in scores]), torch.cat([s[1] for s in scores])

    def _score(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = self.model.get_output_embeddings()(hidden)
        scores = score_logits(logits, targets, temperature, entropy_grad=self.entropy_grad)
        return scores.logprobs, scores.entropy

    @torch.no_grad()
    def check(self) -> None:
        """Compare with the model's own forward pass on a few tokens.

        Raises:
            ValueError: they differ: the model does something between hidden states and logits (capping,
                scaling) that the scorer does not know of.
        """
        vocab = self.model.get_input_embeddings().num_embeddings
        ids = torch.arange(9, device=next(self.model.parameters()).device).remainder(vocab)
        own = score_logits(self.model(input_ids=ids[None]).logits[0, :-1], ids[1:], 1.0)
        logprobs, _ = self(ids[None], torch.arange(8, device=ids.device), ids[1:], 1.0, 1)
        worst = float((own.logprobs - logprobs).abs().max())
        if not worst < 1e-2:
            raise ValueError(
                f"model {type(self.model).__name__}: log-probabilities from hidden states and output head differ "
                f"from its own forward pass by {worst:.3g}; architectures that cap or scale logits are not supported"
            )


def score(
    scorer: nn.Module, token_ids: Tensor, positions: Tensor, targets: Tensor, temperature: float, chunks: int
) -> TokenScores:
    """Run a scorer, or a DeepSpeed engine around one."""
    logprobs, entropy = scorer(token_ids, positions, targets, temperature, chunks)
    return TokenScores(logprobs, entropy)
