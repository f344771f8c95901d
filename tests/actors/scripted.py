"""A scripted policy in a real episode: real tokenizer, menu and settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from actors.engine.generation import Generation
from actors.episodes.episode import Ask, Episode, EpisodeRequest, Observer
from actors.episodes.menu import Menu, draw_menu
from actors.episodes.trajectory import Trajectory
from actors.pool.calls import CallRequest
from actors.questions import Question
from actors.settings import EpisodeSettings, SamplingSettings
from benchmarks.world.experts import experts
from benchmarks.world.language import build_tokenizer
from rewards.transcript import CallStatus, RouteCall

TOKENIZER = build_tokenizer()
CARDS = [expert.card("http://127.0.0.1:1/v1") for expert in experts()]
MENU = draw_menu(CARDS, 0, shuffle=True, rename="seen")
QUESTION = Question("q", "world", "what is the comet of lanu ?", ("sena",))
SEARCH = f"<think> astronomy </think> <search> {MENU.items[0].name} : comet of lanu </search>"
ANSWER = "<think> sena </think> <answer> sena </answer>"
# An episode in which two searches are sent together, with room for the prompt that explains this.
SEVERAL: dict[str, Any] = {"prompt": "instruct", "parallel_searches": 2, "length": 4096}


class Script:
    """A policy that plays given turns, and keeps the prompts and limits that it was called with.

    A turn ends by length if it is cut or does not end in a stop string, unless `finish` says otherwise.
    """

    def __init__(self, *turns: str, finish: Literal["stop", "length"] | None = None) -> None:
        self.turns = list(turns)
        self.finish = finish
        self.prompts: list[list[int]] = []
        self.limits: list[int] = []

    async def generate(
        self,
        prompt_ids: list[int],
        *,
        max_tokens: int,
        stop: list[str],
        sampling: SamplingSettings,
        seed: int | None,
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        self.prompts.append(list(prompt_ids))
        self.limits.append(max_tokens)
        text = self.turns[min(len(self.prompts), len(self.turns)) - 1]
        ids = TOKENIZER.encode(text, add_special_tokens=False)[:max_tokens]
        ended = text.endswith(tuple(stop)) and len(ids) < max_tokens
        if on_text is not None:
            for start in range(0, len(text), 3):
                on_text(text[start : start + 3])
        version = len(self.prompts)
        finish = self.finish or ("stop" if ended else "length")
        return Generation(ids, [-0.5] * len(ids), [version] * len(ids), text, finish)


def replying(reply: str = "it is sena .", status: CallStatus = CallStatus.OK) -> Ask:
    async def ask(request: CallRequest) -> RouteCall:
        return RouteCall(request.requested, request.model, request.query, status, reply, 3, 5, 0.001, 0.1)

    return ask


def play(
    script: Script,
    ask: Ask,
    *,
    menu: Menu = MENU,
    length: int = 512,
    observer: Observer | None = None,
    budget_usd: float | None = None,
    **settings: Any,
) -> Awaitable[Trajectory]:
    return Episode(
        EpisodeRequest(QUESTION, menu, "g", 7, step=3, budget_usd=budget_usd),
        tokenizer=TOKENIZER,
        generate=script.generate,
        ask=ask,
        settings=EpisodeSettings.model_validate({"prompt": "compact", **settings}),
        max_model_len=length,
        observer=observer,
    ).run()
