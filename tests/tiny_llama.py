"""A tiny random Llama that vLLM can serve, and its expected output: for tests of engines and weight sync."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

VOCAB = 300  # not a multiple of 64, so vLLM pads the embedding


def save_tiny_llama(path: Path, *, tied: bool, seed: int) -> LlamaForCausalLM:
    """Write a float32 checkpoint with its tokenizer to `path`; token i is the word `w<i>`, token 1 ends a text.

    The weights are so large that log-probabilities differ by several nats between seeds.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).float().eval()
    model.save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0").save_pretrained(path)
    return model


def reference_logprobs(model: LlamaForCausalLM, token_ids: list[int], temperature: float = 1.0) -> list[float]:
    """The log-probabilities that transformers gives to all tokens after the first, `[T - 1]` in nats."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0, :-1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0].tolist()
