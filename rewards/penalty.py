"""The length-and-switch penalty: charges for long and erratic routing, in addition to its price.

MTRouter (arXiv 2604.23530) finds that good multi-turn routers take few turns and seldom change the model between
turns. The penalty is linear in the number of calls and in the number of changes.
"""

from __future__ import annotations

from itertools import pairwise

from rewards.transcript import Transcript


def calls(transcript: Transcript) -> int:
    """Number of the episode's calls. Invalid routes count too, because the policy reads a reply to each."""
    return len(transcript.calls)


def switches(transcript: Transcript) -> int:
    """How often a call went to another model than the call before it; invalid routes are left out."""
    models = [call.model for call in transcript.calls if call.model is not None]
    return sum(before != after for before, after in pairwise(models))
