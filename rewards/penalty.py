"""The length-and-switch penalty: what long and erratic routing costs, beside its price.

MTRouter (arXiv 2604.23530) finds that good multi-turn routers take few turns and seldom change the model between
them. Here both are charged for: linearly, by the number of calls and by the number of changes.
"""

from __future__ import annotations

from itertools import pairwise

from rewards.transcript import Transcript


def calls(transcript: Transcript) -> int:
    """Calls that the episode made, invalid routes included: each lengthened it by a reply to read."""
    return len(transcript.calls)


def switches(transcript: Transcript) -> int:
    """How often a call went to another model than the call before it; invalid routes went nowhere."""
    models = [call.model for call in transcript.calls if call.model is not None]
    return sum(before != after for before, after in pairwise(models))
