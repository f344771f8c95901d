"""The report of a trajectory: what happened in an episode, for a person to read."""

from __future__ import annotations

import re

from actors.episodes.trajectory import Trajectory
from rewards.transcript import RouteCall


def trajectory_report(trajectory: Trajectory, title: str) -> str:
    """Markdown: prompt, turns, calls with their price, answer and reward. Text is shown unchanged."""
    question, transcript = trajectory.question, trajectory.transcript
    sampled = int(trajectory.sampled.sum())
    parts = [
        f"# {title}: {question.id}\n",
        f"- question: {_line(question.text)}",
        f"- accepted answers: {', '.join(map(_line, question.answers))}",
        f"- answer: {_line(transcript.answer) if transcript.answer is not None else '(none)'}",
        f"- stop: {transcript.stop_reason}, {len(transcript.calls)} calls, {transcript.cost_usd:.6f} USD, "
        f"{trajectory.wall_s:.2f} s",
        f"- tokens: {len(trajectory.token_ids)}, of which sampled {sampled}; group {trajectory.group}, "
        f"seed {trajectory.seed}, oldest policy version {trajectory.oldest_version}",
        *([f"- budget: {trajectory.budget_usd:g} USD"] if trajectory.budget_usd is not None else []),
        f"- reward: {_reward(trajectory)}\n",
        "## Prompt\n",
        _fence(trajectory.prompt),
    ]
    for number, turn in enumerate(transcript.turns, 1):
        parts += [f"## Turn {number}\n", _fence(turn.text)]
        parts += map(_call, turn.calls)
    return "\n".join(parts) + "\n"


def _reward(trajectory: Trajectory) -> str:
    reward = trajectory.reward
    if reward is None:
        return "(none: not judged)"
    text = (
        f"{reward.total:.4f} = format {reward.format:g}, outcome {reward.outcome:.4f}, cost {reward.cost:.4f} "
        f"(em {reward.em:g}, f1 {reward.f1:.4f})"
    )
    return text + (f"; violations: {', '.join(reward.violations)}" if reward.violations else "")


def _call(call: RouteCall) -> str:
    asked = call.model or "nobody"
    renamed = f", asked for as {_line(call.requested)!r}" if call.requested != call.model else ""
    head = (
        f"### Call to {asked}{renamed}\n\n"
        f"- status: {call.status}, {call.attempts} attempts, {call.latency_s:.3f} s, {call.cost_usd:.6f} USD, "
        f"{call.prompt_tokens} + {call.completion_tokens} tokens\n"
        f"- asked: {_line(call.query)}\n"
    )
    error = f"- error: {_line(call.error)}\n" if call.error else ""
    return f"{head}{error}\n{_fence(call.reply)}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _fence(text: str) -> str:
    """A code block that its content can't close: its fence is longer than any row of backticks in the content."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}\n"
