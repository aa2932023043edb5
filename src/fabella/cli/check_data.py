"""Check a text before training: damage, duplicates, empty and long documents, validation split.

Examples:
  fabella check-data my-stories.txt
  fabella check-data stories/ --separator blank-lines
  fabella check-data train.jsonl --column story --json
  fabella check-data storybook:5000
"""

from collections.abc import Iterator
from dataclasses import asdict

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson
from fabella.cli.text_options import (
    HoldoutFraction,
    ReadingOptions,
    SourceArguments,
    expand_options,
    require_fraction,
)
from fabella.config.data import Holdout, Source
from fabella.data.mixture_report import describe_parts, epoch_use
from fabella.data.prepare.corpus import default_validation
from fabella.data.prepare.holdout import document_hash
from fabella.data.prepare.splitting import SourceSplit, SplitRule, holdout_rule
from fabella.text.data_quality import DataQuality
from fabella.text.read_report import ReadReport
from fabella.text.source import describe, documents

UNLIMITED_BAD_LINES = 2**31
"""The check reports every broken line, where ``prepare`` fails at the first."""


@expand_options
def command(
    reading: ReadingOptions,
    source: SourceArguments,
    held_out: HoldoutFraction = 0.0,
    as_json: AsJson = False,
) -> None:
    text = reading.source(*source)
    policy = reading.policy("replace")
    bad_lines = reading.max_bad_lines or UNLIMITED_BAD_LINES

    def read(source: Source, notes: ReadReport) -> Iterator[str]:
        return documents(source, decode_errors=policy, max_bad_lines=bad_lines, notes=notes)

    quality, notes = DataQuality(), ReadReport()
    validation = Holdout(fraction=require_fraction(held_out)) if held_out else default_validation(text)
    if isinstance(validation, Holdout):
        rule: SplitRule = holdout_rule(read(text, ReadReport()), validation.fraction)
    else:
        held = [(document, document_hash(document)) for document in read(validation.source, ReadReport())]
        rule = SourceSplit((digest for _, digest in held), describe(validation.source))
        for document, digest in held:
            quality.add(document, digest, True)
    for document in read(text, notes):
        for part in rule.assign(document, document_hash(document)):
            quality.add(part.text, part.digest, part.held_out)
    report = quality.report(notes=notes)
    remarks = [*notes.messages(), *rule.messages(), *describe_parts(text, notes.parts, unit="byte")]
    if as_json:
        uses = epoch_use(text, notes.parts)
        parts = [{**asdict(part), **use.as_json()} for part, use in zip(notes.parts, uses, strict=bool(uses))]
        print_json(
            {"source": describe(text), **report.facts, "parts": parts, "warnings": report.warnings, "notes": remarks}
        )
        return
    for remark in remarks:
        print_status(remark)
    print_result(report.table)
    for warning in report.warnings:
        print_result(f"warning: {warning}")
    if not report.warnings:
        print_result("No problems found.")
