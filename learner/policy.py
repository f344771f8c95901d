"""The policy in the learner: a Hugging Face causal language model that scores given tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from actors.checkpoint_loading import loading
from learner.attention import PACKED, packed_inputs
from learner.losses.policy_loss import TokenScores, score_logits

_CHECK_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.3}
"""Largest difference, in nats, that rounding can make between two ways of computing a log-probability."""


def load_model(checkpoint: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load a checkpoint directory with attention over packed rows and without dropout.

    With dropout the trained policy would differ from the sampler's: the first ratio would not be 1.

    Raises:
        FileNotFoundError: `checkpoint` has no config.json.
        CheckpointError: its weights are not in safetensors, or it needs code of its own.
    """
    if not (checkpoint / "config.json").is_file():
        raise FileNotFoundError(f"checkpoint={checkpoint} has no config.json; give a directory in Hugging Face format")
    with loading("model", checkpoint):
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
        for name in [name for name in vars(config) if "dropout" in name or name.endswith("pdrop")]:
            setattr(config, name, 0.0)
        return AutoModelForCausalLM.from_pretrained(
            checkpoint,
            config=config,
            dtype=dtype,
            attn_implementation=PACKED,
            trust_remote_code=False,
            use_safetensors=True,  # never a .bin, which is a pickle
        )


class TokenScorer(nn.Module):
    """Scores target tokens. The output head runs only on the trained positions, in chunks if there are many.

    Chunks are recomputed in the backward pass, so that only one chunk's float32 logits are in memory at a time. The
    model's own forward pass would compute logits for every token, prompts and replies included.
    """

    def __init__(self, model: PreTrainedModel, *, entropy_grad: bool = False, keep_hidden: bool = False) -> None:
        """With `keep_hidden`, the hidden states are kept for a value head, see `take_hidden`."""
        super().__init__()
        self.model = model
        self.entropy_grad = entropy_grad
        self.keep_hidden = keep_hidden
        self.hidden: Tensor | None = None

    def forward(
        self, token_ids: Tensor, boundaries: Tensor, positions: Tensor, targets: Tensor, temperature: float, chunks: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies `[n]`, nats, of `targets` `[n]`.

        `token_ids` `[T]` are S sequences end to end; `boundaries` `[S + 1]` int32 are their starts, and T; `positions`
        `[n]` are the indices of the tokens before the targets. `chunks` must be equal on all ranks, because under
        ZeRO-3 every chunk gathers the head.
        """
        hidden = self.model.base_model(**packed_inputs(token_ids, boundaries)).last_hidden_state
        hidden = hidden[0, positions]
        if self.keep_hidden:
            self.hidden = hidden.detach()
        if chunks == 1:
            return self._score(hidden, targets, temperature)
        scores = [
            recompute(self._score, part, wanted, temperature, use_reentrant=False)
            for part, wanted in zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True)
        ]
        return torch.cat([s[0] for s in scores]), torch.cat([s[1] for s in scores])

    def take_hidden(self) -> Tensor:
        """The last hidden states `[n, width]` at the positions scored last, detached; the scorer then forgets them.

        Raises:
            RuntimeError: no batch was scored since the last call, or the scorer keeps no hidden states.
        """
        if self.hidden is None:
            raise RuntimeError("no hidden states for a value head: the policy has not scored the batch; score it first")
        hidden, self.hidden = self.hidden, None
        return hidden

    def _score(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = self.model.get_output_embeddings()(hidden)
        scores = score_logits(logits, targets, temperature, entropy_grad=self.entropy_grad)
        return scores.logprobs, scores.entropy

    @torch.no_grad()
    def check(self) -> None:
        """Compare two packed sequences with the model's own forward pass on each, in eager attention.

        Raises:
            ValueError: the results differ, because the model does something that the scorer leaves out: between hidden
                states and logits (capping, scaling), in its attention (capping, sinks) or from token to token
                (recurrent layers).
        """
        embedding = self.model.get_input_embeddings()
        sequences = [torch.arange(n, device=embedding.weight.device) % embedding.num_embeddings for n in (9, 6)]
        token_ids = torch.cat(sequences)
        boundaries = torch.tensor([0, 9, 15], dtype=torch.int32, device=token_ids.device)
        positions = torch.tensor([*range(8), *range(9, 14)], device=token_ids.device)
        logprobs, _ = self(token_ids, boundaries, positions, token_ids[positions + 1], 1.0, 1)
        self.model.set_attn_implementation("eager")
        own = [score_logits(self.model(input_ids=ids[None]).logits[0, :-1], ids[1:], 1.0) for ids in sequences]
        self.model.set_attn_implementation(PACKED)
        worst = float((torch.cat([scores.logprobs for scores in own]) - logprobs).abs().max())
        most = _CHECK_TOLERANCE[embedding.weight.dtype]
        if not worst <= most:
            raise ValueError(
                f"model {type(self.model).__name__}: log-probabilities of packed sequences differ from its own forward "
                f"pass on each by {worst:.3g} (at most {most:g} is rounding); architectures that cap or scale logits, "
                "cap attention, or carry state from token to token are not supported"
            )


def score(
    scorer: nn.Module,
    token_ids: Tensor,
    boundaries: Tensor,
    positions: Tensor,
    targets: Tensor,
    temperature: float,
    chunks: int,
) -> TokenScores:
    """Run a scorer, or a DeepSpeed engine around one."""
    logprobs, entropy = scorer(token_ids, boundaries, positions, targets, temperature, chunks)
    return TokenScores(logprobs, entropy)
