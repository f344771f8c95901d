"""`router-r1 data`: the training set, built and looked over; what reads data is imported by the commands."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.evaluation.tables import Column, Table, text_columns
from cluster.cli.output import print_table

if TYPE_CHECKING:
    from actors.questions import Question
    from benchmarks.questions.training_set import Report

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Questions: training sets, and a look at any source."
)


class Drop(StrEnum):
    """What may be dropped before questions are drawn."""

    DUPLICATES = "duplicates"
    OVERLAP = "overlap"


@app.command()
def prepare(
    file: Annotated[Path, typer.Argument(help="JSONL file to write; its report is written beside it.")],
    source: Annotated[
        list[str] | None,
        typer.Option("--from", help="A source; may be repeated. nq/train, hotpotqa/train if not given."),
    ] = None,
    count: Annotated[
        list[int] | None, typer.Option(help="Questions of each source: once for all, or once for each.", min=1)
    ] = None,
    against: Annotated[list[str] | None, typer.Option(help="A test set to compare with; may be repeated.")] = None,
    drop: Annotated[list[Drop] | None, typer.Option(help="Drop these before drawing; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and the order.")] = 42,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build a training set: the paper's 7,000 questions of NQ and 7,000 of HotpotQA, or of your sources.

    A source is one of nq, triviaqa, popqa, hotpotqa, 2wikimultihopqa, musique, bamboogle, with /SPLIT or without
    (test, else dev), or a file: JSON lines, .csv, .tsv or .parquet, its columns named behind it where they are not
    id, question and answers.

    Questions are duplicates, or overlap with a test set, where their texts agree but for case, punctuation and
    spaces. Questions without an answer are left out and counted. A source with too few gives all it has.

    \b
    Examples:
      router-r1 data prepare train.jsonl --against nq --against hotpotqa --drop overlap
      router-r1 data prepare train.jsonl --from a.jsonl --from b.csv:id=#:question=query:answers=gold --count 500
    """
    from actors.questions import QuestionError
    from benchmarks.questions.training_set import PAPER_COUNT, PAPER_SOURCES, build, read_part

    sources, counts = source or list(PAPER_SOURCES), count or [PAPER_COUNT]
    if len(counts) == 1:
        counts = counts * len(sources)
    if len(counts) != len(sources):
        raise QuestionError(f"--count: {len(counts)} for {len(sources)} sources; give it once, or once for each")
    if file.is_dir():
        raise QuestionError(f"{file} is a folder; name the file to write, such as {file / 'train.jsonl'}")
    if not file.parent.is_dir():
        raise QuestionError(f"{file}: there is no folder {file.parent}; make it first")
    report_file = file.with_name(f"{file.stem}.report.json")
    if not force and (taken := next((path for path in (file, report_file) if path.exists()), None)):
        raise QuestionError(f"{taken} exists: name another file, or give --force to overwrite it")
    parts = [read_part(name) for name in sources]
    tests = [read_part(name) for name in against or []]
    questions, report = build(parts, counts, seed=seed, tests=tests, drop={kind.value for kind in drop or []})
    document = json.dumps({"file": file.name} | asdict(report), ensure_ascii=False, indent=2)
    _write(file, "".join(_line(question) for question in questions))
    _write(report_file, document + "\n")
    if json_:
        typer.echo(document)
        return
    _show_report(report)
    typer.echo(f"{file}: {report.questions:,} questions; {report_file.name} beside it tells more")


@app.command()
def show(
    source: Annotated[str, typer.Argument(help="A set, SET/SPLIT, a file, world:train or world:heldout.")],
    rows: Annotated[int, typer.Option(help="Questions to print.", min=0)] = 5,
    limit: Annotated[int | None, typer.Option(help="Questions to read; all, if not given.", min=1)] = None,
) -> None:
    """Show a source's first questions, and how many it has by data set and hop count.

    \b
    Examples:
      router-r1 data show musique --limit 100
      router-r1 data show dev.parquet:question=query:answers=gold
    """
    from benchmarks.questions.sources import hop_count, load_source

    questions = load_source(source, limit=limit, two_hop_share=0.4)
    for question in questions[:rows]:
        typer.echo(f"{question.id}: {question.text}\n    {' | '.join(question.answers)}")
    counts = Counter((question.dataset or "-", hop_count(question)) for question in questions)
    counted = [
        [dataset, "not stated" if hops is None else str(hops), f"{number:,}"]
        for (dataset, hops), number in sorted(counts.items(), key=str)
    ]
    print_table(Table("", [*text_columns("data set", "hops"), Column("questions")], counted))


def _show_report(report: Report) -> None:
    columns = ("rows", "empty answers", "duplicates", "in earlier ones", "left", "asked", "taken")
    rows = []
    for found in report.sources:
        faults = (found.empty_answers, found.duplicates, found.in_earlier_sources)
        numbers = (found.rows, *faults, found.left, found.asked, found.taken)
        rows.append([_short(found.source), *(f"{number:,}" for number in numbers)])
    print_table(Table("", [*text_columns("source"), *map(Column, columns)], rows))
    if report.overlap_left:
        parts = [*(_short(found.source) for found in report.sources), "training set"]
        rows = [
            [_short(test), *(f"{found.overlap[test]:,}" for found in report.sources), f"{number:,}"]
            for test, number in report.overlap_left.items()
        ]
        print_table(Table("", [*text_columns("also in"), *map(Column, parts)], rows))
    for found in report.sources:
        if found.taken < found.asked:
            _warn(f"{found.source}: {found.asked:,} questions were asked for, {found.taken:,} could be had")
    if report.duplicates_left:
        _warn(f"{report.duplicates_left:,} duplicates are in the set; --drop duplicates leaves them out")
    for test, number in report.overlap_left.items():
        if number:
            _warn(f"{number:,} questions are also in {test}; --drop overlap leaves them out")


def _short(source: str) -> str:
    """A source's name for a table: of a file, that without its folder."""
    name = Path(source).name
    return name if "." in name else source


def _write(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    from actors.questions import QuestionError
    from actors.whole_files import write_whole

    try:
        write_whole(path, text)
    except OSError as error:
        raise QuestionError(f"{path} can't be written: {error}; its folder must exist and have space") from error


def _line(question: Question) -> str:
    row = {"id": question.id, "dataset": question.dataset, "question": question.text, "answers": question.answers}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _warn(message: str) -> None:
    typer.secho(message, fg="yellow", err=True)
