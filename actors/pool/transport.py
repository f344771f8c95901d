"""HTTP requests to candidates' endpoints: a pooled session, its deadlines, and the protection of the keys."""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.payload import BytesPayload
from yarl import URL

from actors.errors import ExplainedError
from actors.pool.reply import Reply, read_reply
from actors.pool.settings import PoolSettings

SHORTEST_SECRET = 8  # characters; a dummy key such as `EMPTY` is no secret, and removing it would damage replies

_JSON = "application/json"


class PoolError(ExplainedError, RuntimeError):
    """The pool can't be used as configured; the message names the endpoint or card and the remedy."""


class Transport:
    """Posts to endpoints over one session. Redirects are never followed, and no cookie or proxy login is kept,
    so a key reaches only the host that its card names."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None  # made in the loop that uses it
        self._urls: dict[str, URL] = {}  # parsed once
        self._closed = False

    async def post(self, base_url: str, key: str | None, body: bytes) -> Reply:
        """Send one request for a chat completion, with the JSON `body`. A connection that fails, or is silent for
        `first_byte_timeout_s`, is a retriable fault. The only other deadline is the one to connect.

        Raises:
            PoolError: the transport is closed.
        """
        url = self._urls.get(base_url)
        if url is None:
            url = self._urls[base_url] = URL(f"{base_url}/chat/completions")
        session = self._session or self._open()
        answered = False
        try:
            payload = BytesPayload(body, content_type=_JSON)
            async with session.post(url, data=payload, headers=_headers(key), allow_redirects=False) as response:
                answered = response.status < 300
                content = await _read(response, self._settings.max_reply_bytes)
                if content is None:
                    limit = self._settings.max_reply_bytes
                    fault = f"the reply is longer than {limit} bytes (pool.max_reply_bytes)"
                    return Reply(fault=fault, may_be_billed=answered)
                reply = read_reply(response.status, _without(key, content))
                reply.retry_after_s = retry_after_s(response.headers.get("Retry-After"))
                return reply
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            hung = isinstance(error, aiohttp.SocketTimeoutError)
            reason = f"said nothing for {self._settings.first_byte_timeout_s:g} s (pool.first_byte_timeout_s)"
            return Reply(
                fault=f"the connection to {url} {reason if hung else f'broke: {type(error).__name__}: {error}'}",
                retriable=True,
                timed_out=isinstance(error, aiohttp.ServerTimeoutError),
                down=True,
                may_be_billed=answered or hung,
            )
        except aiohttp.ClientError as error:  # the response is not HTTP
            return Reply(fault=f"{url} does not speak HTTP: {type(error).__name__}")

    async def probe(self, base_url: str, key: str | None) -> None:
        """One GET of the endpoint's models, within the connect deadline.

        Raises:
            PoolError: the endpoint does not answer in time, redirects, refuses the key or is out of order.
        """
        url, deadline_s = f"{base_url}/models", self._settings.connect_timeout_s
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._open().get(url, headers=_headers(key), allow_redirects=False) as response,
            ):
                status = response.status
        except TimeoutError:
            raise PoolError(
                f"{url} did not answer within {deadline_s:g} s (pool.connect_timeout_s); "
                "start the server, or correct the card's base_url or pool.base_url"
            ) from None
        except aiohttp.ClientError as error:
            raise PoolError(
                f"{url} can't be reached ({type(error).__name__}: {error}); "
                "start the server, or correct the card's base_url or pool.base_url"
            ) from None
        if status in (401, 403):
            raise PoolError(f"{url} refused the key (HTTP {status}); check the variable that api_key_env names")
        if 300 <= status < 400:
            raise PoolError(f"{url} redirects (HTTP {status}), which is never followed; set the final base_url")
        if status >= 500:
            raise PoolError(f"{url} is out of order (HTTP {status}); repair the server or choose another base_url")

    async def close(self) -> None:
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise PoolError("the candidate caller is closed; make another to ask")
        if self._session is None:
            connect_s = self._settings.connect_timeout_s
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the gates limit the calls
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=connect_s,
                    sock_connect=connect_s,
                    sock_read=self._settings.first_byte_timeout_s,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def retry_after_s(header: str | None, now_s: float | None = None) -> float:
    """The pause in seconds that a Retry-After header asks for, as a number or a date; 0 if it asks for none."""
    if not header:
        return 0.0
    try:
        pause_s = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
            pause_s = date.timestamp() - (time.time() if now_s is None else now_s)
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, pause_s) if math.isfinite(pause_s) else 0.0


def _without(key: str | None, body: bytes) -> bytes:
    """`body` without the key. Done before any text is shortened, so that no part of a repeated key remains."""
    return body if key is None or len(key) < SHORTEST_SECRET else body.replace(key.encode(), b"***")


def _headers(key: str | None) -> dict[str, str] | None:
    return None if key is None else {"Authorization": f"Bearer {key}"}


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes | None:
    """The decompressed body; None if it is longer than `most_bytes`, and then the rest is never read."""
    length = response.content_length
    if length is not None and length <= most_bytes and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            response.close()
            return None
    return bytes(body)
