"""Loads checkpoints with transformers: reads tensors and JSON, and never runs a checkpoint's own code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actors.errors import ExplainedError


class CheckpointError(ExplainedError, ValueError):
    """A checkpoint can't be loaded; the message names it, the reason and the remedy."""


def read_tokenizer(checkpoint: str | Path) -> Any:  # transformers' stubs are not followed
    """The tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: the files can't be read, or the tokenizer needs code of its own.
    """
    from transformers import AutoTokenizer

    with loading("tokenizer", checkpoint):
        return AutoTokenizer.from_pretrained(str(checkpoint), trust_remote_code=False)


@contextmanager
def loading(part: str, checkpoint: str | Path) -> Iterator[None]:
    """Explain errors of the block, in which transformers loads a part of a checkpoint with `trust_remote_code=False`.

    Without that argument, transformers asks on the terminal whether to run a checkpoint's own code.

    Raises:
        CheckpointError: in place of transformers' error.
    """
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors each have errors of their own
        if "custom code" in str(error):
            reason = "it needs code of its own (auto_map), which is never run"
            remedy = "give a checkpoint of an architecture that transformers itself knows"
        else:
            reason = str(error).partition("\n")[0] or type(error).__name__
            remedy = "copy it again, or give another"
        raise CheckpointError(f"checkpoint {checkpoint}: its {part} can't be loaded: {reason}; {remedy}") from error
