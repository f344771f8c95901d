"""The baselines from a terminal: `python -m benchmarks.baselines replies.jsonl`, or `world` for the embedded one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.baselines.comparison import NAMES, Row, sweep
from benchmarks.baselines.contests import TRAIN_SHARE, world_training
from benchmarks.baselines.embedding import check_embedding
from benchmarks.baselines.recorded_table import recorded_table
from benchmarks.baselines.report import table, verdicts
from benchmarks.baselines.router import HASHING
from benchmarks.baselines.world_tables import hop_table, play_by_hop, whole_table
from benchmarks.evaluation.methods import definitions
from benchmarks.evaluation.protocol import TWO_HOP_SHARE
from benchmarks.evaluation.reply_table import split
from benchmarks.questions.sources import load_source

_WORLD_TEST = 500  # held-out questions of the world


def main() -> None:
    """Print the table of all baselines and what it says of those that learn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("source", help="a JSONL file of recorded replies; `world` (hop by hop) or `world:whole`")
    parser.add_argument("--names", nargs="+", default=list(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--lambdas", nargs="+", type=float, default=[0.0, 0.02, 0.05, 0.1], help="weights of cost")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-share", type=float, default=TRAIN_SHARE, help="of recorded questions")
    parser.add_argument("--embedding", default=HASHING, help="or a sentence-transformers model, by name or path")
    asked = parser.parse_args()
    check_embedding(asked.embedding)
    rows, note = _rows(asked)
    meanings = definitions(row.name for row in rows)
    lines = [note, "", table(rows), "", *meanings, "", *(f"- {verdict}" for verdict in verdicts(rows))]
    sys.stdout.write("\n".join(lines) + "\n")


def _rows(asked: argparse.Namespace) -> tuple[list[Row], str]:
    """The rows, and in a line what they were made of."""
    if asked.source not in ("world", "world:whole"):
        train, test = split(recorded_table(Path(asked.source)), asked.train_share, asked.seed)
        play = None
    else:
        learnt = world_training()
        held = load_source("world:heldout", limit=_WORLD_TEST, two_hop_share=TWO_HOP_SHARE)
        whole = asked.source == "world:whole"
        train, test = (whole_table(part) if whole else hop_table(part) for part in (learnt, held))
        play = None if whole else (lambda router: play_by_hop(router, held))
    rows = sweep(train, test, asked.names, asked.seed, asked.lambdas, embedding=asked.embedding, play=play)
    return rows, f"{len(train)} questions to train on, {len(test)} to test on; {test.note}"


if __name__ == "__main__":
    main()
