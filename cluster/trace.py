"""The trace: what the policy writes and reads in an episode, as it happens, without the final answer."""

from __future__ import annotations

from collections.abc import Callable

from rewards.grammar import OPEN
from rewards.transcript import BlockKind, RouteCall

_ANSWER = OPEN[BlockKind.ANSWER]


class Trace:
    """An episode's observer that passes text on piece by piece.

    Text from `<answer>` on is held back until it is clear whether it is the final answer, which its user shows
    in another place, or only part of the thinking. What is passed on does not depend on how the text was split.
    """

    def __init__(self, write: Callable[[str], None], route: Callable[[RouteCall], None] | None = None) -> None:
        """`write` receives the text, `route` each call once it is over and before its reply is read."""
        self._write = write
        self._route = route
        self._held = ""

    def on_text(self, text: str) -> None:
        self._held += text
        start = self._held.find(_ANSWER)
        self._release(len(self._held) - _begun(self._held) if start < 0 else start)

    def on_call(self, call: RouteCall) -> None:
        self._release(len(self._held))
        if self._route is not None:
            self._route(call)

    def on_read(self, text: str) -> None:
        self._release(len(self._held))
        self._write(text)

    def finish(self, *, answered: bool) -> None:
        """End the episode: the answer is dropped where there is one, else nothing."""
        answer = self._held.rfind(_ANSWER) if answered else -1
        self._release(len(self._held) if answer < 0 else answer)
        self._held = ""

    def _release(self, length: int) -> None:
        if length:
            self._write(self._held[:length])
            self._held = self._held[length:]


def _begun(text: str) -> int:
    """Length of the longest end of `text` with which the tag could begin."""
    longest = min(len(text), len(_ANSWER) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(_ANSWER[:n])), 0)
