"""The trace: the text that the policy writes and reads in an episode, as it happens, without the final answer."""

from __future__ import annotations

from collections.abc import Callable

from rewards.transcript import BlockKind, RouteCall


class Trace:
    """An episode's observer that passes text on piece by piece.

    An answer block is held back until it is clear whether it is the final answer, which is shown elsewhere. It is not
    if more text follows, or if it is never closed.
    """

    def __init__(self, write: Callable[[str], None], route: Callable[[RouteCall], None] | None = None) -> None:
        """`write` gets the text; `route` gets each call when it has ended, before the policy reads its reply."""
        self._write = write
        self._route = route
        self._answer = ""

    def on_text(self, text: str, kind: BlockKind | None) -> None:
        if kind is BlockKind.ANSWER:
            self._answer += text
        else:
            self._release()
            self._write(text)

    def on_call(self, call: RouteCall) -> None:
        self._release()
        if self._route is not None:
            self._route(call)

    def on_read(self, text: str) -> None:
        self._release()
        self._write(text)

    def finish(self, *, answered: bool) -> None:
        """End the episode. If it was answered, drop the text that was held back; otherwise write it."""
        if not answered:
            self._release()
        self._answer = ""

    def _release(self) -> None:
        if self._answer:
            self._write(self._answer)
            self._answer = ""
