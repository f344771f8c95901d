"""Pool variants of `router-r1 evaluate`: the cards that the policy reads, the costs of calls, each pool's bounds."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from endpoints import Endpoints, Words, colour, write_cards, write_questions

from actors.episodes.menu import INVENTED_NAMES
from actors.episodes.remote_model import RemoteModelError
from actors.pool.cards import ModelCard
from actors.questions import Question
from benchmarks.baselines import contests
from benchmarks.baselines.world_bounds import Choose, play
from benchmarks.questions.sources import load_source
from benchmarks.world.experts import Expert, experts
from benchmarks.world.facts import World
from cluster.episodes.candidates import Candidates
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.options import EvaluateError, EvaluationOptions
from cluster.evaluation.pool_variants import PoolVariant, make_variants, read_wishes
from cluster.players import players as evaluation_policy
from cluster.runs.files import RunFolderError

pytestmark = pytest.mark.thorough

FEW = 199  # resamples
POOLS = ("seen", "unseen", "unseen-unmeasured", "without: BETA", "price:alpha=3", "unseen")
LABELS = ["seen", "unseen", "unseen-unmeasured", "without:beta", "price:alpha=3"]


class Pools(Endpoints):
    """The model `gamma`, which is not in the training, also knows all colours.

    The model `wanderer` plays the world: it asks the first card of the menu and believes the reply.
    """

    models = (*Endpoints.models, "gamma", "wanderer")

    def __init__(self) -> None:
        self.prompts: list[str] = []  # the first prompts of the policy's episodes
        super().__init__()

    async def reply(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        model, messages = body["model"], body["messages"]
        if model in ("sage", "wanderer") and len(messages) == 1:
            self.prompts.append(messages[0]["content"])
        if model == "gamma":
            self.asked[model] += 1
            return self.say(f"it is {colour(messages[-1]['content'])}")
        if model != "wanderer":
            return await super().reply(request)
        text = messages[-1]["content"]
        if len(messages) > 1:
            found = re.findall(r"(\w+) \.", text)[0]
            return self.say(f"<think> so </think> <answer> {found} ")
        name = re.findall(r"^- (\w+): ", text, re.M)[0]
        query = re.findall(r"Question: what is the (.*) \?", text)[-1]
        return self.say(f"<think> who </think> <search> {name} : {query} ")


@pytest.fixture
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pools]:
    monkeypatch.setattr(evaluation_policy, "load_tokenizer", lambda _: Words())  # importing transformers takes seconds
    monkeypatch.setattr(contests, "_WORLD_TRAIN", 100)
    made = Pools()
    yield made
    made.stop()


def colours(endpoints: Pools, tmp_path: Path, count: int = 8, **changes: Any) -> EvaluationOptions:
    """`sage` over alpha and beta; gamma is the unseen candidate."""
    unseen = tmp_path / "unseen.yaml"
    card = {"name": "gamma", "descriptor": "a model 13b", "base_url": endpoints.url, "price_out_usd_per_mtok": 4.0}
    unseen.write_text(json.dumps({"models": [card | {"domains": {"things": 0.9}}]}), encoding="utf-8")
    asked = write_questions(tmp_path / "asked.jsonl", range(count))
    settings = {
        "serve": "none",
        "pool.cards": write_cards(tmp_path / "cards.yaml", endpoints.url),
        "unseen_cards": unseen,
    }
    train = write_questions(tmp_path / "train.jsonl", range(100, 130))
    return EvaluationOptions(
        **{
            "target": endpoints.url,
            "model": "sage",
            "datasets": (asked,),
            "baselines": ("none",),
            "pools": POOLS,
            "out": tmp_path / "out",
            "concurrency": 2,
            "overrides": (
                *(f"candidates.{name}={value}" for name, value in settings.items()),
                f"data.train={train}",
                f"data.eval={asked}",
                "episode.rename_cards=false",
            ),
        }
        | changes
    )


def run(options: EvaluationOptions) -> tuple[Path, list[str]]:
    said: list[str] = []
    return evaluate(dataclasses.replace(options, resamples=FEW), said.append, lambda *_: None), said


def pools_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of the pool table by pool."""
    numbers = json.loads((folder / "evaluation.json").read_text())
    return {row["pool"]: row for row in numbers["pools"]["rows"]}


def items_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in (folder / "items.jsonl").read_text().splitlines():
        found[json.loads(line)["row"]].append(json.loads(line))
    return found


def test_the_policy_reads_the_cards_of_each_variant_and_pays_their_prices(endpoints: Pools, tmp_path: Path) -> None:
    out, _ = run(colours(endpoints, tmp_path))
    assert list(pools_of(out)) == LABELS
    shown = Counter(frozenset(re.findall(r"^- .*$", prompt, re.M)) for prompt in endpoints.prompts)
    alpha, dear_alpha = (f"- alpha: a model 70b (${p} in, ${p} out per million tokens; about 1 s)" for p in (2, 6))
    beta = "- beta: a model 7b ($1 in, $1 out per million tokens; about 1 s)"
    gamma = "- gamma: a model 13b ($4 in, $4 out per million tokens; about 1 s"
    measured, unmeasured = f"{gamma}; right answers: things 90%)", f"{gamma})"
    pools = ({alpha, beta}, {alpha, beta, measured}, {alpha, beta, unmeasured}, {alpha}, {dear_alpha, beta})
    assert shown == {frozenset(pool): 8 for pool in pools}

    items = items_of(out)
    assert set(items) == {"policy", *(f"policy @ {label}" for label in LABELS[1:])}
    price = {"alpha": 2.0, "beta": 1.0, "gamma": 4.0}
    really = 0.0
    for row, mine in items.items():
        for item in mine:
            [[model, _]] = item["calls"]
            usd = (item["prompt_tokens"] + item["completion_tokens"]) * price[model] / 1e6
            really += usd
            assert item["cost_usd"] == pytest.approx(usd * (3 if model == "alpha" and "price" in row else 1))
    dear = {item["question"]: item for item in items["policy @ price:alpha=3"]}
    assert any(item["calls"][0][0] == "alpha" for item in dear.values())
    for item in items["policy"]:  # the order of the cards is the same
        assert dear[item["question"]]["calls"] == item["calls"]
    assert {item["calls"][0][0] for item in items["policy @ without:beta"]} == {"alpha"}
    assert {item["calls"][0][0] for item in items["policy @ unseen"]} >= {"gamma"}
    with sqlite3.connect(out / "ledger.sqlite") as ledger:
        [[paid]] = ledger.execute("SELECT SUM(cost_nano) FROM ledger_calls")
    assert paid / 1e9 == pytest.approx(really)  # costs at changed prices are only computed, never paid
    assert json.loads((out / "evaluation.json").read_text())["spent_usd"] == pytest.approx(really)


def test_a_conversation_that_was_refused_counts_with_its_variants_prices(endpoints: Pools, tmp_path: Path) -> None:
    endpoints.too_long = 3  # the reply's message
    out, _ = run(colours(endpoints, tmp_path, 2, pools=("price:alpha=3", "price:beta=3")))
    items = items_of(out)
    assert {item["stop"] for mine in items.values() for item in mine} == {"not_taken"}
    before = {item["question"]: (item["cost_usd"], item["calls"][0][0]) for item in items["policy"]}
    for name in ("alpha", "beta"):
        for item in items[f"policy @ price:{name}=3"]:
            usd, model = before[item["question"]]
            assert 0 < item["cost_usd"] == pytest.approx(usd * (3 if model == name else 1))


def test_what_was_spent_is_that_of_unseen_candidates_too_when_everyone_is_asked(
    endpoints: Pools, tmp_path: Path
) -> None:
    everyone = {"baselines": ("alone",), "ask_everyone": True, "fit_questions": 5, "max_usd": 1.0}
    out, _ = run(colours(endpoints, tmp_path, 4, pools=("unseen",), **everyone))
    with sqlite3.connect(out / "ledger.sqlite") as ledger:
        paid = dict(ledger.execute("SELECT model, SUM(cost_nano) / 1e9 FROM ledger_calls GROUP BY model"))
    assert paid.keys() == {"alpha", "beta", "gamma"}
    for _ in range(2):
        spent = json.loads((out / "evaluation.json").read_text())["spent_usd"]
        assert spent == pytest.approx(sum(paid.values()))
        run(colours(endpoints, tmp_path, 4, pools=("unseen",), **everyone))


def test_without_a_table_of_replies_the_bounds_are_left_open_and_a_note_says_why(
    endpoints: Pools, tmp_path: Path
) -> None:
    out, _ = run(colours(endpoints, tmp_path))
    found = pools_of(out)
    for row in found.values():
        bounds = ("cheapest_right_em", "of_cheapest_right", "best_constant_training", "against_best_constant_training")
        assert all(row[name] is None for name in bounds)
    table = (out / "table.md").read_text()
    assert "Note: cheapest right candidate and best constant in training need a table of all" in table
    items = items_of(out)
    ours = {item["question"]: item["em"] for item in items["policy @ without:beta"]}
    gaps = [ours[item["question"]] - item["em"] for item in items["policy"]]
    against = found["without:beta"]["against_trained"]
    assert np.mean(gaps) > 0
    assert against["comparison"]["difference"]["mean"] == pytest.approx(np.mean(gaps))
    assert against["comparison"]["test"] == "mcnemar"
    assert found["price:alpha=3"]["against_trained"]["comparison"]["p_value"] == 1.0
    assert found["seen"]["against_trained"] is None
    section = table[table.index("## With other candidates") :]
    lines = [line for line in section.splitlines() if line.startswith("| without:beta |")]
    assert f"| {100 * np.mean(list(ours.values())):.1f} (" in lines[0]
    assert re.search(r"^\| Candidate \|.* without:beta, \w+ \|", section, re.M)


def test_where_everyone_was_asked_the_bounds_are_those_of_each_pool(endpoints: Pools, tmp_path: Path) -> None:
    asked = colours(
        endpoints, tmp_path, pools=("without:alpha", "price:alpha=3", "unseen"), baselines=("cheapest_right",)
    )
    out, _ = run(dataclasses.replace(asked, ask_everyone=True, fit_questions=10))
    found = pools_of(out)
    assert [found[pool]["cheapest_right_em"] for pool in ("seen", "without:alpha", "price:alpha=3", "unseen")] == [
        1,
        0,
        1,
        None,
    ]
    for pool in ("seen", "price:alpha=3"):
        assert found[pool]["best_constant_training"] == "alpha"
        assert found[pool]["of_cheapest_right"]["mean"] == pytest.approx(found[pool]["summary"]["em"]["mean"])
        assert found[pool]["against_best_constant_training"]["comparison"]["difference"]["mean"] < 0
    assert found["without:alpha"]["of_cheapest_right"] is None  # no candidate is right
    assert found["without:alpha"]["best_constant_training"] == "beta"
    items = items_of(out)
    before, after = (
        sum(item["cost_usd"] for item in items[row])
        for row in ("best_constant_training", "best_constant_training @ price:alpha=3")
    )
    assert before > 0
    assert after == pytest.approx(3 * before)


def test_stopped_in_its_midst_it_goes_on_and_asks_nobody_twice(endpoints: Pools, tmp_path: Path) -> None:
    options = colours(endpoints, tmp_path)
    whole, _ = run(dataclasses.replace(options, out=tmp_path / "whole"))
    endpoints.asked.clear()
    endpoints.patience = 45
    with pytest.raises(RemoteModelError, match="refused the key"):
        run(dataclasses.replace(options, concurrency=1))  # with more, a call in flight is cut off and made again
    before = sum(endpoints.asked[name] for name in ("alpha", "beta", "gamma"))
    assert 8 < before < 40
    endpoints.patience = None
    out, said = run(options)
    assert re.search(r"^\d+ of 40 episodes were played before", "\n".join(said), re.M)
    assert sum(endpoints.asked[name] for name in ("alpha", "beta", "gamma")) == 40
    for label in LABELS:
        ours, theirs = (pools_of(folder)[label] for folder in (out, whole))
        for row in (ours, theirs):
            for part in (row["summary"], *row["summary"]["by_set"].values()):
                del part["latency_s"]  # the two evaluations made different calls
        assert ours == theirs
    asked, table = Counter(endpoints.asked), (out / "table.md").read_text()
    run(options)
    assert endpoints.asked == asked
    assert (out / "table.md").read_text() == table


def test_variants_make_it_another_evaluation_and_none_leave_it_as_it_was(endpoints: Pools, tmp_path: Path) -> None:
    plain = colours(endpoints, tmp_path, 2, pools=("seen",))
    out, _ = run(plain)
    assert "pools" not in json.loads((out / "asked.json").read_text())
    assert "pools" not in json.loads((out / "evaluation.json").read_text())
    table = (out / "table.md").read_text()
    run(dataclasses.replace(plain, pools=()))
    assert (out / "table.md").read_text() == table
    with pytest.raises(RunFolderError, match=r"another evaluation \(pools was None, is \{'unseen': '\w+'\}\)"):
        run(dataclasses.replace(plain, pools=("unseen",)))


def test_in_the_world_the_share_of_the_cheapest_right_is_that_of_another_computation(
    endpoints: Pools, tmp_path: Path
) -> None:
    pools = {name: experts("seen") for name in ("seen", "without:seen-polymath", "price:seen-polymath=2")}
    pools["without:seen-polymath"] = [expert for expert in experts("seen") if expert.name != "seen-polymath"]
    pools["unseen"] = experts("unseen")
    out, _ = run(
        EvaluationOptions(
            endpoints.url, model="wanderer", datasets=("world:heldout",), limit=60, baselines=("none",),
            pools=tuple(pools), out=tmp_path / "out", concurrency=8,
            overrides=("engine.max_model_len=4096", "data.two_hop_share=0"),
        )
    )  # fmt: skip
    found, items = pools_of(out), items_of(out)
    world = World()
    drawn = {item["question"] for item in items["policy"]}
    questions = [q for q in load_source("world:heldout", limit=None, two_hop_share=0.0) if q.id in drawn]
    assert len(questions) == 60
    for label, pool in pools.items():
        row, mine = found[label], items["policy" if label == "seen" else f"policy @ {label}"]
        ideal = [right(q, world, best_of(pool)) for q in questions]
        assert row["cheapest_right_em"] == pytest.approx(np.mean(ideal))
        rights = [item["em"] for item in mine]
        assert 0.05 < np.mean(rights) < np.mean(ideal)
        share = row["of_cheapest_right"]
        assert share["mean"] == pytest.approx(np.mean(rights) / np.mean(ideal))
        assert share["low"] < share["mean"] < share["high"]
        [best] = [expert for expert in pool if expert.name == row["best_constant_training"]]
        alone = [right(q, world, best_of([best])) for q in questions]
        assert row["best_constant_training_em"] == pytest.approx(np.mean(alone))
        asked = {item["calls"][0][0] for item in mine}
        assert asked <= {expert.name for expert in pool}
        assert len(asked) > 5
    before, after = (
        {item["question"]: item["cost_usd"] for item in items[name] if item["calls"][0][0] == "seen-polymath"}
        for name in ("policy", "policy @ price:seen-polymath=2")
    )
    assert len(before) > 1
    assert after == pytest.approx({question: 2 * usd for question, usd in before.items()})
    assert sum("polymath ($4 in, $32 out" in prompt for prompt in endpoints.prompts) == 60


def right(question: Question, world: World, choose: Choose) -> float:
    return play(question, world, choose).em


def best_of(pool: Sequence[Expert]) -> Choose:
    return lambda hop: max(pool, key=lambda expert: expert.competence[hop.domain])


def test_recorded_replies_bound_each_pool(endpoints: Pools, tmp_path: Path) -> None:
    right = {"ChatGPT-4": lambda n: n % 3 > 0, "BingChat": lambda n: n % 2 == 0}
    replies = [
        {"id": f"q{n}", "dataset": "things", "question": f"what is the thing {n} ?", "model": model,
         "response": f"it is {'red' if known(n) else 'green'} .", "correct": known(n)}
        for n in range(40) for model, known in right.items()
    ]  # fmt: skip
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies), encoding="utf-8")

    def ask(name: str, numbers: range) -> EvaluationOptions:
        rows = [
            {"id": f"q{n}", "dataset": "things", "question": f"what is the thing {n} ?", "answers": ["red"]}
            for n in numbers
        ]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        served = ("candidates.serve=recorded", f"candidates.replies={tmp_path / 'replies.jsonl'}")
        pools = ("without:ChatGPT-4", "price:ChatGPT-4=2")
        return EvaluationOptions(
            endpoints.url, model="wanderer", datasets=(str(file),), baselines=("none",), pools=pools,
            out=tmp_path / name, overrides=(*served, f"data.train={file}", f"data.eval={file}"),
        )  # fmt: skip

    out, _ = run(ask("known", range(24)))
    found, items = pools_of(out), items_of(out)
    both = np.mean([any(known(n) for known in right.values()) for n in range(24)])
    bing = np.mean([right["BingChat"](n) for n in range(24)])
    assert [row["cheapest_right_em"] for row in found.values()] == pytest.approx([both, bing, both])
    assert [row["best_constant_training"] for row in found.values()] == ["ChatGPT-4", "BingChat", "ChatGPT-4"]
    assert found["without:ChatGPT-4"]["of_cheapest_right"]["mean"] == pytest.approx(1.0)  # there is no other candidate
    before, after = found["seen"], found["price:ChatGPT-4=2"]
    assert after["best_constant_training_usd_per_1k"] == pytest.approx(2 * before["best_constant_training_usd_per_1k"])
    assert after["of_cheapest_right"] == before["of_cheapest_right"]
    assert {item["calls"][0][0] for item in items["policy @ without:ChatGPT-4"]} == {"BingChat"}
    replies[0]["correct"] = not replies[0]["correct"]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"baselines of another making \(replies was "):
        run(ask("known", range(24)))

    out, _ = run(ask("unknown", range(39, 42)))  # two of them were never recorded
    assert [row["summary"]["questions"] for row in pools_of(out).values()] == [3, 3, 3]
    assert [row["cheapest_right_em"] for row in pools_of(out).values()] == [None] * 3
    said = "cheapest right candidate and best constant in training are left out: 2 of 3 questions have no"
    assert said in (out / "table.md").read_text()


def test_an_unseen_cast_has_names_that_training_never_shows(endpoints: Pools, tmp_path: Path) -> None:
    overrides = ("engine.max_model_len=4096",)
    out, _ = run(
        EvaluationOptions(
            endpoints.url, model="wanderer", limit=2, baselines=("none",), pools=("unseen-unmeasured",),
            out=tmp_path / "out", overrides=overrides,
        )
    )  # fmt: skip
    assert "so `unseen-unmeasured` is the same as `unseen`" in (out / "table.md").read_text()
    names = [frozenset(re.findall(r"^- (\w+): ", prompt, re.M)) for prompt in endpoints.prompts]
    assert sorted(len(shown & set(INVENTED_NAMES[:44])) for shown in names) == [0, 0, 14, 14]


def made_card(name: str, price: float, **fields: Any) -> ModelCard:
    return ModelCard(
        name=name, descriptor="d", base_url="http://127.0.0.1:9/v1", price_out_usd_per_mtok=price, **fields
    )


CARDS = (made_card("alpha", 2.0), made_card("org/beta=1", 1.0, aliases=("bee",)), made_card("gift", 0.0, free=True))


def variants(*texts: str, cards: tuple[ModelCard, ...] = CARDS, whole_dollars: bool = False) -> list[PoolVariant]:
    return make_variants(read_wishes(texts), Candidates(cards), whole_dollars=whole_dollars)


def test_candidates_are_found_by_name_or_alias_and_each_variant_is_there_once() -> None:
    found = variants("without:bee", "without:ORG/beta=1", "price:org/beta=1=2", "seen")
    assert [variant.label for variant in found] == ["seen", "without:org/beta=1", "price:org/beta=1=2"]
    assert [card.name for card in found[1].cards] == ["alpha", "gift"]
    assert found[2].cards[1].price_in_usd_per_mtok == found[2].cards[1].price_out_usd_per_mtok == 2.0
    assert found[2].factors == {"org/beta=1": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unsen", r"--pool unsen: unknown; give one of seen, unseen, unseen-unmeasured, without:NAME, price:"),
        ("without:", r"--pool without:: unknown"),
        ("price:alpha", r"give price:NAME=FACTOR"),
        ("price:alpha=", r"factor '' must be a number above 0"),
        ("price:alpha=cheap", r"factor 'cheap' must be a number above 0"),
        ("price:alpha=0", r"factor '0' must be a number above 0"),
        ("price:alpha=-2", r"factor '-2' must"),
        ("price:alpha=nan", r"factor 'nan' must"),
        ("price:alpha=inf", r"factor 'inf' must"),
        ("without:omega", r"no candidate 'omega' in the pool; there are alpha, org/beta=1, gift"),
        ("price:omega=2", r"no candidate 'omega' in the pool; there are alpha"),
        ("price:gift=2", r"gift is free, and no factor changes that"),
        ("unseen", r"no unseen candidates; name their cards with --set candidates\.unseen_cards=FILE"),
        ("unseen-unmeasured", r"no unseen candidates"),
    ],
)
def test_what_is_no_variant_is_refused(text: str, message: str) -> None:
    with pytest.raises(EvaluateError, match=message):
        variants(text)


def test_the_last_candidate_stays() -> None:
    with pytest.raises(EvaluateError, match="alpha is the only candidate"):
        variants("without:alpha", cards=CARDS[:1])


def test_the_worlds_policy_is_shown_only_prices_that_it_can_read() -> None:
    with pytest.raises(EvaluateError, match=r"alpha would cost \$60 instead of \$2, .* whole dollars from \$1 to \$40"):
        variants("price:alpha=30", whole_dollars=True)
    with pytest.raises(EvaluateError, match=r"would cost \$0 instead"):
        variants("price:alpha=0.1", whole_dollars=True)
    assert variants("price:alpha=30")[1].cards[0].price_out_usd_per_mtok == 60.0
    [_, same] = variants("price:alpha=1.1", whole_dollars=True)
    assert same.notes == ("`price:alpha=1.1`: the prompt states whole dollars, so the policy reads $2 as before",)
    assert variants("price:alpha=2", whole_dollars=True)[1].notes == ()


@pytest.mark.parametrize("target", ["world", "recorded:nowhere.jsonl"])
def test_where_no_policy_plays_there_are_no_variants(target: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match=f"--pool with {target}: no policy plays there"):
        run(EvaluationOptions(target, pools=("unseen",), out=tmp_path / "out"))


def test_a_wrong_variant_is_told_before_anybody_is_asked(endpoints: Pools, tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match=r"there are alpha, beta"):
        run(colours(endpoints, tmp_path, pools=("without:gamma",)))
    assert not endpoints.asked
    assert not (tmp_path / "out").exists()
