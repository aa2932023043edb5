"""Check a text before training: damage, duplicates, empty and long documents, validation split.

Examples:
  fabella check-data my-stories.txt
  fabella check-data stories/ --separator blank-lines
  fabella check-data train.jsonl --column story --json
  fabella check-data my-stories.txt --tokenizer tokenizers/mine    count tokens, and characters that it would lose
  fabella check-data storybook:5000
  fabella check-data train.jsonl --duplicates near       say which documents are like earlier ones
  fabella check-data train.txt --overlap lambada.jsonl   say which documents of a test are in the text
"""

from dataclasses import asdict

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson
from fabella.cli.text_options import (
    ChatOptions,
    DuplicatesOption,
    EndToken,
    ExistingTokenizer,
    HoldoutFraction,
    OverlapOption,
    ReadingOptions,
    SourceArguments,
    ValidationOption,
    expand_options,
    parse_duplicates,
    tokenizer_of,
    validation_section,
)
from fabella.config.data import Bytes, DataConfig, Packed
from fabella.data.mixture_report import PartRead, describe_parts, epoch_use
from fabella.data.prepare.corpus import measure_overlap
from fabella.data.prepare.tokenizer_sample import open_corpus
from fabella.text.chat.marks import plain_text
from fabella.text.data_quality import DataQuality
from fabella.text.similarity.evaluation_sets import evaluation_source
from fabella.text.source import describe
from fabella.training.setup.expected_split import ExpectedSplits
from fabella.training.setup.request import size_of
from fabella.training.setup.suggest_config import advise

UNLIMITED_BAD_LINES = 2**31
"""The check reports every broken line, where ``prepare`` fails at the first."""


@expand_options
def command(
    reading: ReadingOptions,
    chat: ChatOptions,
    source: SourceArguments,
    tokenizer: ExistingTokenizer = "",
    end_token: EndToken = "",
    validation: ValidationOption = "",
    held_out: HoldoutFraction = 0.0,
    duplicates: DuplicatesOption = "keep",
    overlap: OverlapOption = None,
    as_json: AsJson = False,
) -> None:
    text = reading.source(*source)
    data = DataConfig(
        source=text,
        validation=validation_section(text, reading, validation, held_out),
        sequences=Packed(length=1, stride=1),  # documents are not cut to sequences here
        duplicates=parse_duplicates(duplicates),
        decode_errors=reading.policy("replace"),
        max_bad_lines=reading.max_bad_lines or UNLIMITED_BAD_LINES,
        chat_template=chat.chat_template,
        loss_on=chat.chosen_loss(),
    )
    config = tokenizer_of(tokenizer, end_token) if tokenizer else None
    corpus = open_corpus(data, config or Bytes(), None)
    quality = DataQuality(responses_only=data.loss_on == "answers")
    expected = ExpectedSplits(text, config)
    parts = [PartRead(describe(part)) for part in corpus.sources]
    for document in corpus.split_documents("checking"):
        quality.add(document.text, document.digest, document.held_out)
        expected.add(plain_text(document.text), document.held_out)
        if not document.held_out:
            parts[document.part].documents += 1
            parts[document.part].bytes += len(plain_text(document.text).encode())
    report = quality.report(notes=corpus.notes)
    warnings = [*report.warnings, *expected.warnings()]
    remarks = [*corpus.messages(), *expected.remarks(), *describe_parts(text, parts, unit="byte")]
    advice = advise(text, size_of(text))
    overlaps = measure_overlap(corpus, [evaluation_source(other) for other in overlap or ()])
    if as_json:
        uses = epoch_use(text, parts)
        rows = [{**asdict(part), **use.as_json()} for part, use in zip(parts, uses, strict=bool(uses))]
        found = {"fabella_train": advice, "parts": rows, "overlap_runs": [one.as_json() for one in overlaps]}
        print_json({"source": describe(text), **report.facts, **found, "warnings": warnings, "notes": remarks})
        return
    for remark in remarks:
        print_status(remark)
    print_result(report.table)
    for one in overlaps:
        print_result(str(one))
    print_result(f"fabella train would use: {' '.join(advice)}")
    for warning in warnings:
        print_result(f"warning: {warning}")
    if not warnings:
        print_result("No problems found.")
