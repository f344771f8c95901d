"""Reply tables of the world: its experts on whole questions or hop by hop, without an engine or a server.

A pool that is left out is the seen cast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.questions import Question
from benchmarks.baselines.router import Router
from benchmarks.evaluation.means import Outcome
from benchmarks.evaluation.reply_table import RecordedReply, ReplyTable
from benchmarks.world.experts import Expert, count_tokens, experts
from benchmarks.world.facts import Hop, World, hops_of, question_text
from rewards.outcome import outcomes

_NOWHERE = "http://127.0.0.1:8900/v1"  # nobody is asked there
_NOTE = "assumed: latencies are the experts' medians"
_BY_HOP = (
    "each hop is asked as its true sub-question, which a policy has to find out for itself, and a router chooses anew "
    "for it, unlike those of the paper, which choose once for a whole question"
)


def whole_table(questions: Sequence[Question], pool: Sequence[Expert] | None = None) -> ReplyTable:
    """Every expert answers every question on its own: the second hop asks for what it said to the first."""
    world, pool = World(), pool or experts()
    return _table(questions, pool, [[_answer_all(q, expert, world) for expert in pool] for q in questions])


def hop_table(questions: Iterable[Question], pool: Sequence[Expert] | None = None) -> ReplyTable:
    """Every expert answers every sub-question of the questions, each once: what a router that chooses anew for each
    hop is trained on."""
    world, pool = World(), pool or experts()
    hops = dict.fromkeys(hop for question in questions for hop in hops_of(question.text, world))
    return _hop_table({hop.query: hop for hop in hops}, pool, world)


def play_by_hop(router: Router, questions: Sequence[Question], pool: Sequence[Expert] | None = None) -> list[Outcome]:
    """Answer questions hop by hop; the router chooses for each hop, and the reply is believed."""
    world, pool = World(), pool or experts()
    chains = {question.id: hops_of(question.text, world) for question in questions}
    answers = dict.fromkeys(chains, "")
    played: dict[str, list[Outcome]] = {key: [] for key in chains}
    for step in range(max(map(len, chains.values()))):
        hops = {
            key: hops[0] if step == 0 else Hop(hops[step].relation, answers[key])
            for key, hops in chains.items()
            if step < len(hops)
        }
        # Each hop is a question of its own, so that a router which draws by the id draws anew.
        table = _hop_table({f"{key}#{step}": hop for key, hop in hops.items()}, pool, world)
        for key, columns, outcome in zip(hops, router.route(table), router.play(table), strict=True):
            answers[key] = pool[columns[-1]].answer(hops[key], world)
            played[key].append(outcome)
    return [_chained(outcomes(answers[q.id], q.answers), played[q.id]) for q in questions]


def _chained(scores: tuple[float, float], hops: Sequence[Outcome]) -> Outcome:
    """The outcome of a question: its scores, and what its hops took together."""
    return Outcome(
        *scores,
        cost_usd=sum(hop.cost_usd for hop in hops),
        asked=tuple(name for hop in hops for name in hop.asked),
        prompt_tokens=sum(hop.prompt_tokens for hop in hops),
        completion_tokens=sum(hop.completion_tokens for hop in hops),
        latency_s=sum(hop.latency_s for hop in hops),
        held=scores[0],  # answers are words, not sentences
    )


def _hop_table(hops: dict[str, Hop], pool: Sequence[Expert], world: World) -> ReplyTable:
    """Sub-questions by id."""
    questions = [Question(key, "world-hop", question_text((hop,)), (world.fact(hop),)) for key, hop in hops.items()]
    replies = [[_answer(hop, expert, world) for expert in pool] for hop in hops.values()]
    return _table(questions, pool, replies, f"{_NOTE}; {_BY_HOP}")


def _table(
    questions: Sequence[Question], pool: Sequence[Expert], replies: Sequence[Sequence[RecordedReply]], note: str = _NOTE
) -> ReplyTable:
    cards = tuple(expert.card(_NOWHERE) for expert in pool)
    return ReplyTable(tuple(questions), cards, tuple(map(tuple, replies)), note)


def _answer_all(question: Question, expert: Expert, world: World) -> RecordedReply:
    """The replies to all hops as one: the last one's text, the tokens of all."""
    replies: list[RecordedReply] = []
    answer = ""
    for index, hop in enumerate(hops_of(question.text, world)):
        hop = hop if index == 0 else Hop(hop.relation, answer)
        replies.append(_answer(hop, expert, world))
        answer = expert.answer(hop, world)
    em, f1 = outcomes(answer, question.answers)
    return RecordedReply(
        text=replies[-1].text,
        correct=em,
        f1=f1,
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        cost_usd=sum(reply.cost_usd for reply in replies),
        latency_s=sum(reply.latency_s for reply in replies),
    )


def _answer(hop: Hop, expert: Expert, world: World) -> RecordedReply:
    text, right = expert.reply(hop, world), float(expert.answers_rightly(hop, world))
    prompt, completion = count_tokens(hop.query), count_tokens(text)
    return RecordedReply(text, right, right, prompt, completion, expert.cost_usd(prompt, completion), expert.latency_s)
