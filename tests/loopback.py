"""A model server on loopback, in a thread of its own; a subclass decides its replies."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from aiohttp import web


class LoopbackModels(ABC):
    """Speaks the OpenAI protocol at `url` from its construction until `stop`."""

    models: Sequence[str] = ()  # the names that it lists

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    @abstractmethod
    async def reply(self, request: web.Request) -> web.Response:
        """The response to a request for a chat completion."""

    @staticmethod
    def say(text: str, refusal: str | None = None) -> web.Response:
        """A completion with `text`, or with a refusal."""
        message = {"role": "assistant", "content": text or None, "refusal": refusal}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _start(self) -> str:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.reply)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.models]})
