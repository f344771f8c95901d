"""Repricing: computes the costs of an episode's calls at other prices, without calling anyone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.episodes.trajectory import Trajectory
from rewards.transcript import RouteCall, Turn

PriceFactors = Mapping[str, float]  # by card


def reprice(turns: Sequence[Turn], factors: PriceFactors) -> tuple[Turn, ...]:
    """The same turns, with the costs of their calls multiplied by the candidates' factors."""
    return tuple(replace(turn, calls=tuple(_reprice(call, factors) for call in turn.calls)) for turn in turns)


def reprice_episode(trajectory: Trajectory, factors: PriceFactors) -> Trajectory:
    """The same episode, with the costs of its calls multiplied by the candidates' factors."""
    transcript = trajectory.transcript
    return replace(trajectory, transcript=replace(transcript, turns=reprice(transcript.turns, factors)))


def _reprice(call: RouteCall, factors: PriceFactors) -> RouteCall:
    factor = factors.get(call.model or "", 1.0)
    return replace(call, cost_usd=call.cost_usd * factor, raw_cost=call.raw_cost * factor)
