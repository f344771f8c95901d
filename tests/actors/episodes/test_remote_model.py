"""The remote model: its turns end like the policy's, and its provider's failures are explained."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from scripted import ANSWER, CARDS, MENU, QUESTION, SEARCH, TOKENIZER, replying

from actors.episodes.episode import Episode, EpisodeRequest
from actors.episodes.remote_model import Conversation, RemoteModel, RemoteModelError, RemoteModelRefusal, end_turn
from actors.settings import EpisodeSettings
from learner.demonstrations import Demonstration, DemonstrationEncoder, Segment
from rewards.grammar import STOPS

ONE, SEVERAL = list(STOPS), ["<information>", "</answer>"]
KEY = "sk-a-long-secret"


@pytest.mark.parametrize(
    ("text", "stop", "finish", "matched", "expected"),
    [
        ("<search> a : b ", ONE, "stop", None, ("<search> a : b </search>", "stop")),
        ("<think> x </think> <answer> y ", ONE, "stop", None, ("<think> x </think> <answer> y </answer>", "stop")),
        ("<answer> y </answer>", ONE, "stop", None, ("<answer> y </answer>", "stop")),
        ("<search> a : b </search> <information> made up", ONE, "stop", None, ("<search> a : b </search>", "stop")),
        ("<search> a : b </search> <information> made up", ONE, "length", None, ("<search> a : b </search>", "stop")),
        ("<search> a : b", ONE, "length", None, ("<search> a : b", "length")),
        ("<think> then ", ONE, "stop", None, ("<think> then ", "stop")),
        ("<think> then ", ONE, "stop", "</answer>", ("<think> then </answer>", "stop")),
        ("I do not know", ONE, "stop", None, ("I do not know", "stop")),
        ("<answer> y", ONE, None, None, ("<answer> y</answer>", "stop")),
        ("<search> a : b </search>", SEVERAL, "stop", None, ("<search> a : b </search><information>", "stop")),
        ("<search> a : b ", SEVERAL, "stop", None, ("<search> a : b ", "stop")),
        ("", ONE, "stop", None, ("", "stop")),
    ],
)
def test_a_turn_ends_as_the_policys_would(
    text: str, stop: list[str], finish: str | None, matched: str | None, expected: tuple[str, str]
) -> None:
    assert end_turn(text, stop, finish, matched) == expected


Reply = Callable[[dict[str, Any]], web.Response]


class Endpoint:
    """A chat endpoint on loopback, which answers as the test says and keeps its requests."""

    def __init__(self) -> None:
        self.reply: Reply = lambda _: web.Response(status=500)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        self.asked.append(json.loads(await request.read()))
        return self.reply(self.asked[-1])


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    endpoint, app = Endpoint(), web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.handle)
    server = TestServer(app)
    await server.start_server()
    yield endpoint, str(server.make_url("/v1"))
    await server.close()


def completion(text: object, finish: str = "stop") -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})


def say(model: RemoteModel) -> Awaitable[Any]:
    return model.say([{"role": "user", "content": "who ?"}], max_tokens=9, stop=ONE, temperature=0.5)


async def test_an_episode_is_played_as_a_chat_and_comes_to_the_tokens_of_its_demonstration(
    endpoint: tuple[Endpoint, str],
) -> None:
    server, url = endpoint
    turns = [SEARCH.removesuffix("</search>"), ANSWER.removesuffix("</answer>")]
    server.reply = lambda asked: completion(turns[len(asked["messages"]) // 2])
    model = RemoteModel(url, "sage", key=KEY)
    request = EpisodeRequest(QUESTION, MENU, "g", 7)
    settings = EpisodeSettings(prompt="compact")
    player = Conversation(model, TOKENIZER, "told how to")
    trajectory = await Episode(
        request,
        tokenizer=TOKENIZER,
        generate=player.generate,
        ask=replying("it is sena . </information> <answer> no"),
        settings=settings,
        max_model_len=512,
        observer=player,
    ).run()
    await model.close()

    assert [message["role"] for message in player.messages] == ["user", "assistant", "user", "assistant"]
    assert [m["content"] for m in player.messages[:2]] == ["told how to", SEARCH]
    assert server.asked[1]["messages"] == player.messages[:3]
    assert server.asked[0] | {"messages": []} == {
        "model": "sage",
        "messages": [],
        "stop": ONE,
        "temperature": 1.0,
        "max_tokens": server.asked[0]["max_tokens"],
    }
    assert server.keys == [f"Bearer {KEY}"] * 2
    assert (player.prompt_tokens, player.completion_tokens) == (20, 8)
    assert trajectory.transcript.answer == "sena"
    assert trajectory.transcript.calls[0].model in {card.name for card in CARDS}

    segments = tuple(Segment(m["content"], m["role"] == "assistant") for m in player.messages[1:])
    example = DemonstrationEncoder(TOKENIZER, 512).encode(Demonstration("a", trajectory.prompt, segments))
    assert example.token_ids == trajectory.token_ids.tolist()
    assert example.sampled == trajectory.sampled.tolist()


async def test_a_turn_too_long_for_the_policy_is_cut(endpoint: tuple[Endpoint, str]) -> None:
    server, url = endpoint
    server.reply = lambda _: completion("<think> the the the the </think>")
    model = RemoteModel(url, "sage")
    generation = await Conversation(model, TOKENIZER, "?").generate(
        [], max_tokens=3, stop=ONE, sampling=_greedy(), seed=0
    )
    await model.close()
    assert generation.finish_reason == "length"
    assert generation.text.split() == ["<think>", "the", "the"]
    assert len(generation.token_ids) == 3
    assert server.asked[0]["temperature"] == 0


def _greedy() -> Any:
    from actors.settings import SamplingSettings

    return SamplingSettings(temperature=0)


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (web.json_response({"error": {"message": f"bad key {KEY}"}}, status=401), RemoteModelError, "--api-key-env"),
        (
            web.json_response({"error": {"message": "no such model"}}, status=404),
            RemoteModelError,
            "check the model's name, sage",
        ),
        (
            web.json_response({"error": {"message": f"too long {KEY}"}}, status=400),
            RemoteModelRefusal,
            r"too long \*\*\*",
        ),
        (web.json_response({"error": {"message": "busy"}}, status=503), RemoteModelError, "HTTP 503 after 1 attempts"),
        (web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"}), RemoteModelError, "redirects"),
        (web.Response(text="<html>"), RemoteModelError, "something else than a chat completion"),
        (web.Response(text="{", content_type="application/json"), RemoteModelError, "something else than"),
        (web.json_response({"choices": []}), RemoteModelError, "something else than a chat completion"),
        (web.json_response({"choices": [{"index": 0}]}), RemoteModelError, "something else than a chat completion"),
        (web.json_response([1]), RemoteModelError, "something else than a chat completion"),
    ],
)
async def test_what_goes_wrong_is_told_with_its_remedy_and_without_the_key(
    endpoint: tuple[Endpoint, str], reply: web.Response, error: type[Exception], words: str
) -> None:
    server, url = endpoint
    server.reply = lambda _: reply
    model = RemoteModel(url, "sage", key=KEY, attempts=1)
    with pytest.raises(error, match=words) as caught:
        await say(model)
    await model.close()
    assert KEY not in str(caught.value)
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", [None, 3, ["part"]])
async def test_a_reply_without_text_is_an_empty_turn(endpoint: tuple[Endpoint, str], content: object) -> None:
    server, url = endpoint
    server.reply = lambda _: completion(content)
    model = RemoteModel(url, "sage")
    assert (await say(model)).text == ""
    await model.close()


async def test_a_passing_failure_is_tried_again(endpoint: tuple[Endpoint, str]) -> None:
    server, url = endpoint
    server.reply = lambda _: web.Response(status=503) if len(server.asked) == 1 else completion("<answer> a ")
    model = RemoteModel(url, "sage", attempts=2)
    assert (await say(model)).text == "<answer> a </answer>"
    await model.close()
    assert len(server.asked) == 2


async def test_silence_and_absence_have_an_end() -> None:
    release = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/chat/completions", hang)
    server = TestServer(app)
    await server.start_server()
    url = str(server.make_url("/"))
    silent = RemoteModel(url, "sage", timeout_s=0.2, attempts=1)
    with pytest.raises(RemoteModelError, match=r"did not answer within 0.2 s, 1 times \(--timeout-s\)"):
        await say(silent)
    await silent.close()
    release.set()
    await server.close()
    gone = RemoteModel(url, "sage", timeout_s=5, attempts=1)
    with pytest.raises(RemoteModelError, match=r"can't be reached.*start the server"):
        await say(gone)
    await gone.close()
    with pytest.raises(RemoteModelError, match="the base URL of sage must be an http"):
        RemoteModel("nowhere", "sage")
    with pytest.raises(RemoteModelError, match="must hold no credentials") as refused:
        RemoteModel("http://user:hunter2@127.0.0.1:8000/v1", "sage")
    assert "hunter2" not in str(refused.value)
