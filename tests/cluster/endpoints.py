"""An OpenAI-compatible server on loopback that plays a policy and two candidates, in a thread of its own."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from aiohttp import web
from loopback import LoopbackModels

COLOURS = ("red", "blue", "green", "black")


class Words:
    """A tokenizer whose tokens are the lengths of words; decoding does not give the words back."""

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def encode(self, text: str, **_: object) -> list[int]:
        return [len(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        return " ".join("x" * token for token in tokens)

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> list[int]:
        return self.encode(messages[0]["content"])


def colour(question: str) -> str:
    """The right answer to `what colour is thing N ?`."""
    return COLOURS[int(re.findall(r"thing (\d+)", question)[-1]) % len(COLOURS)]


class Endpoints(LoopbackModels):
    """`sage` is the policy: it routes to the first card shown and repeats the colour that it reads; without cards it
    says red. Of the candidates, `alpha` knows all colours, and `beta` refuses everything.

    The server counts the requests to each model; after `patience` requests to the policy it refuses the key. The policy
    rejects questions about the things in `not_taken`, and conversations of `too_long` messages or more.
    """

    models = ("sage", "alpha", "beta")

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.openings: list[str] = []  # the first prompts of episodes
        self.patience: int | None = None
        self.broken: set[str] = set()  # models whose endpoint is out of order
        self.not_taken: set[str] = set()
        self.too_long: int | None = None
        super().__init__()

    async def reply(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.asked[body["model"]] += 1
        text = body["messages"][-1]["content"]
        if body["model"] in self.broken:
            return web.json_response({"error": {"message": "out of order"}}, status=404)
        if body["model"] == "beta":
            return self.say("", refusal="I would rather not")
        if body["model"] == "alpha":
            return self.say(f"it is {colour(text)}")
        if self.patience is not None and self.asked["sage"] > self.patience:
            return web.json_response({"error": {"message": "no"}}, status=403)
        if any(f"{thing} ?" in text for thing in self.not_taken):
            return web.json_response({"error": {"message": "against the rules"}}, status=400)
        if self.too_long is not None and len(body["messages"]) >= self.too_long:
            return web.json_response({"error": {"message": "too many tokens"}}, status=400)
        if len(body["messages"]) > 1:
            found = next((c for c in COLOURS if c in text), "any")
            return self.say(f"<think> so </think> <answer> {found} ")
        self.openings.append(text)
        if not (names := re.findall(r"^- (\w+): ", text, re.M)):
            return self.say("<answer> red ")
        name = names[0]
        question = re.findall(r"Question: (.*)", text)[-1]
        return self.say(f"<think> who </think> <search> {name} : {question} ")


def write_questions(path: Path, numbers: range, name: str = "things") -> str:
    """Write questions into a file; return it as a source."""
    rows = [
        {"id": f"t{n}", "dataset": name, "question": f"what colour is thing {n} ?", "answers": [colour(f"thing {n}")]}
        for n in numbers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_cards(path: Path, url: str) -> str:
    """Write the cards of both candidates; return the file."""
    models = [
        {"name": name, "descriptor": f"a model {size}b", "base_url": url, "price_out_usd_per_mtok": price}
        for name, size, price in (("alpha", 70, 2.0), ("beta", 7, 1.0))
    ]
    path.write_text(json.dumps({"models": models}), encoding="utf-8")
    return str(path)
