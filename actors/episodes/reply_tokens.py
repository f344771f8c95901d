"""Turns text that the policy did not write into its token ids: within the length limit, and without control tokens."""

from __future__ import annotations

import re
from typing import Any

from actors.episodes.prompt import information_parts
from rewards.grammar import TAGS, neutralise

_CHARACTERS_PER_TOKEN = 32  # more than any tokenizer packs into one of its tokens, on average over a text


class Reader:
    """A policy's tokenizer for text that the policy did not write.

    Control tokens that such text spells out stay plain text: the tokenizer splits those that it calls special, and a
    space breaks every other added token (`<tool_call>`, `<|fim_prefix|>`).
    """

    def __init__(self, tokenizer: Any, max_reply_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_reply_tokens = max_reply_tokens
        self._control = _begins_of(list(tokenizer.get_added_vocab()))

    def encode_chat(self, message: str) -> list[int]:
        """Token ids of a user message under the policy's own chat template, ready for its reply."""
        return list(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": self._break_control(message)}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        )

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def cut(self, reply: str) -> str:
        """The beginning of a reply, at most `max_reply_tokens` tokens long and harmless to parser and tokenizer.

        The tokens are counted as the policy reads the reply between its tags. The text is cut, not the tokens, because
        tokens that are decoded and encoded again may become more.
        """
        most = self._max_reply_tokens
        # Tokenizers refuse lone surrogates, which JSON may hold.
        text = reply[: _CHARACTERS_PER_TOKEN * most].encode("utf-8", "replace").decode()
        text = self._break_control(neutralise(text))
        while (tokens := len(self.encode(information_parts(text)[1]))) > most:
            text = text[: len(text) * most // tokens]
        return text

    def _break_control(self, text: str) -> str:
        return self._control.sub(r"\g<0> ", text)


def _begins_of(tokens: list[str]) -> re.Pattern[str]:
    """Matches the first character of each of the tokens, except for words, white space and protocol tags."""
    rests: dict[str, list[str]] = {}
    for token in tokens:
        if len(token) > 1 and not token[0].isalnum() and not token.isspace() and token not in TAGS:
            rests.setdefault(token[0], []).append(re.escape(token[1:]))
    # Grouped by first character: text without control tokens seldom holds one, so the search is fast.
    return re.compile("|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()) or r"(?!)")
