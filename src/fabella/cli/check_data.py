"""Look a text over before training on it: damage, duplicates, empty and long documents, what is held out.

Examples:
  fabella check-data my-stories.txt
  fabella check-data stories/ --separator blank-lines
  fabella check-data train.jsonl --column story --json
  fabella check-data storybook:5000
"""

from collections.abc import Iterator
from typing import Annotated

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.config.data import FilesSource, HubSource, Source
from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.splitting import holdout_rule
from fabella.errors import UsageError
from fabella.text.data_quality import DataQuality
from fabella.text.read_report import ReadReport
from fabella.text.source import describe, documents, parse_source

# The doctor wants to see all that is wrong, where preparing would stop at the first of it.
EVERY_BAD_LINE = 2**31


def command(
    source: Annotated[str, typer.Argument(help="A file, folder or glob, storybook[:N], or hub:OWNER/NAME[:SPLIT].")],
    separator: Annotated[
        str, typer.Option(help="Between documents of .txt: auto, file, blank-lines, lines, or the separator itself.")
    ] = "auto",
    column: Annotated[str, typer.Option(help="The text column of .jsonl, .csv, .parquet and data sets.")] = "auto",
    held_out: Annotated[float, typer.Option(help="Share of documents held out to validate.")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    text = _overridden(parse_source(source), separator, column)
    if not 0 < held_out < 1:
        raise UsageError(f"--held-out {held_out} is no share between 0 and 1.", hint="For example --held-out 0.01.")
    doctor, notes = DataQuality(), ReadReport()
    rule = holdout_rule(_documents(text, ReadReport()), held_out)
    for document in _documents(text, notes):
        for part in rule.assign(document, document_hash(document)):
            doctor.add(part.text, part.digest, part.held_out)
    report = doctor.report(notes=notes)
    remarks = [*notes.messages(), *rule.sentences()]
    if as_json:
        print_json({"source": describe(text), **report.facts, "warnings": report.warnings, "notes": remarks})
        return
    for remark in remarks:
        print_status(remark)
    print_result(report.table)
    for warning in report.warnings:
        print_result(f"warning: {warning}")
    if not report.warnings:
        print_result("Nothing is wrong with this text.")


def _documents(source: Source, notes: ReadReport) -> Iterator[str]:
    return documents(source, invalid="replace", max_bad_lines=EVERY_BAD_LINE, notes=notes)


def _overridden(source: Source, separator: str, column: str) -> Source:
    if separator != "auto" and not isinstance(source, FilesSource):
        raise UsageError(f"--separator means nothing for {describe(source)}.", hint="Leave it out.")
    if column != "auto" and not isinstance(source, FilesSource | HubSource):
        raise UsageError(f"--column means nothing for {describe(source)}.", hint="Leave it out.")
    given = {"separator": separator, "column": column}
    return source.model_copy(update={key: value for key, value in given.items() if value != "auto"})
