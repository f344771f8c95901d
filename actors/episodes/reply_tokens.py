"""Reading: what others wrote as token ids of the policy, no longer than allowed, and none of them a control token."""

from __future__ import annotations

import re
from typing import Any

from actors.episodes.prompt import information_parts
from rewards.grammar import TAGS, neutralise

_CHARACTERS_PER_TOKEN = 32  # more than any tokenizer packs into one of its tokens, on average over a text


class Reader:
    """A policy's tokenizer for text that the policy did not write.

    Control tokens that such text spells out stay plain text: the library is asked to split those that it calls
    special, and any other added token (`<tool_call>`, `<|fim_prefix|>`) is broken by a space.
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
        """The beginning of a reply that takes `max_reply_tokens` or fewer, harmless to parser and tokenizer.

        Measured as it is read, between its tags. The text itself is cut, as tokens that are decoded and encoded
        again may become more.
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
    """Matches the first character of every one of the tokens that is neither a word, nor white space, nor a tag."""
    rests: dict[str, list[str]] = {}
    for token in tokens:
        if len(token) > 1 and not token[0].isalnum() and not token.isspace() and token not in TAGS:
            rests.setdefault(token[0], []).append(re.escape(token[1:]))
    # By first character, which text without control tokens seldom holds: the search takes little time.
    return re.compile("|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()) or r"(?!)")
