"""Options of every command that reads text, and their application to a source.

A command declares them all by one argument and the decorator:

    @expand_options
    def command(source: SourceArgument, reading: ReadingOptions, as_json: AsJson = False) -> None:
"""

import inspect
import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from fabella.config.data import (
    Duplication,
    Holdout,
    KeepDuplicates,
    LossOn,
    Pretrained,
    RemoveExact,
    RemoveNear,
    Source,
    TokenizerConfig,
    ValidationSource,
)
from fabella.data.prepare.corpus import default_validation
from fabella.errors import UsageError
from fabella.run_config.run import RunConfig
from fabella.text.decode_policy import DecodeErrors
from fabella.text.decoding.encoding_names import require_encoding
from fabella.text.source import parse_sources, with_read_options
from fabella.tokenizers import loading
from fabella.training.setup.request import TrainRequest

SOURCE_HELP = "Files, directories or globs; storybook[:N]; hub:OWNER/NAME[:SPLIT]; a .yaml with data.source."

Words = Annotated[
    list[str] | None, typer.Argument(help="Further files of the text, and settings as section.key=value.")
]
SourceArgument = Annotated[str, typer.Argument(help=SOURCE_HELP)]
SourceArguments = Annotated[list[str], typer.Argument(help=SOURCE_HELP)]
Separator = Annotated[
    str,
    typer.Option(
        "--separator",
        help="Document separator of .txt: auto, file, blank-lines, lines, or any text; of .csv: a character.",
    ),
]
Column = Annotated[
    str,
    typer.Option(
        "--column", help="Text column of a table: a name, a path (doc.text), or a template ('{title} {text}')."
    ),
]
Encoding = Annotated[
    str, typer.Option("--encoding", help="Encoding of text files: auto, or a name such as utf-8, cp1252 or shift_jis.")
]
DecodeErrorsOption = Annotated[
    str,
    typer.Option(
        "--decode-errors",
        help="Invalid UTF-8, NUL and lone surrogates: strict fails, replace inserts U+FFFD, skip drops the document.",
    ),
]
MaxBadLines = Annotated[
    int, typer.Option("--max-bad-lines", min=0, help="Broken .jsonl or .csv lines to skip before failing.")
]
Boilerplate = Annotated[
    str,
    typer.Option("--boilerplate", help="Header and licence of Project Gutenberg, and front matter: remove or keep."),
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Documents to read at most; 0 reads all.")]
ExistingTokenizer = Annotated[
    str,
    typer.Option(
        "--tokenizer",
        help="Tokenizer: bytes, bpe[:SIZE], sentencepiece[:SIZE], or an existing one: a path, a run, or a hub name.",
    ),
]
ChatTemplateOption = Annotated[
    str,
    typer.Option(
        "--chat-template",
        help="Writes conversations: plain, chatml, alpaca, zephyr, a Jinja file, tokenizer (its own); default: its "
        "own, else plain.",
    ),
]
LossOnOption = Annotated[
    str, typer.Option("--loss-on", help="Tokens that are learned: all, or answers (the assistant's messages).")
]
SpecialTokensInText = Annotated[
    bool,
    typer.Option(
        "--special-tokens-in-text", help="Encode special tokens where the text spells them out; by default as text."
    ),
]
EndToken = Annotated[
    str, typer.Option("--end-token", help="Token of --tokenizer that ends a document; by default that of its files.")
]
MaxLostCharacters = Annotated[
    float,
    typer.Option("--max-lost-characters", min=0.0, max=1.0, help="Share of characters that --tokenizer may lose."),
]
ValidationOption = Annotated[str, typer.Option("--validation", help="Separate text source for validation.")]
HoldoutFraction = Annotated[
    float,
    typer.Option("--held-out", help="Share of documents held out, between 0 and 1; default: 0.01."),
]


DuplicatesOption = Annotated[
    str,
    typer.Option(
        "--duplicates", help="Documents like an earlier one: keep, exact (leave out equal ones), near[:SIMILARITY]."
    ),
]
OverlapOption = Annotated[
    list[str] | None,
    typer.Option("--overlap", help="Text or evaluation set; report which of its documents are in the training text."),
]


def parse_duplicates(text: str) -> Duplication:
    """Parse ``--duplicates``. Raises UsageError for an unknown value."""
    kind, _, similarity = text.partition(":")
    try:
        if kind == "near":
            return RemoveNear(similarity=float(similarity)) if similarity else RemoveNear()
        if text in ("keep", "exact"):
            return RemoveExact() if text == "exact" else KeepDuplicates()
    except ValueError:
        pass
    raise UsageError(f"Cannot use --duplicates {text!r}.", hint="Use keep, exact, near, or near:0.7 (0.3 to 1).")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """Options of every command that reads text. The default of each changes nothing."""

    separator: Separator = "auto"
    column: Column = "auto"
    encoding: Encoding = "auto"
    boilerplate: Boilerplate = "remove"
    limit: Limit = 0
    decode_errors: DecodeErrorsOption = ""
    max_bad_lines: MaxBadLines = 0

    def changes(self) -> dict[str, Any]:
        """Return the settings of a source that differ from their defaults. Raises UsageError for a wrong value."""
        if self.boilerplate not in ("remove", "keep"):
            raise UsageError(f"Unknown --boilerplate {self.boilerplate!r}.", hint="Use remove or keep.")
        given = {
            "separator": self.separator,
            "column": self.column,
            "encoding": require_encoding(self.encoding),
            "boilerplate": self.boilerplate,
            "limit": self.limit,
        }
        return {key: value for key, value in given.items() if value not in ("auto", "remove", 0)}

    def source(self, *texts: str) -> Source:
        """Return the source of one or more texts. Raises UsageError for an option that it does not have."""
        return with_read_options(parse_sources(texts), self.changes())

    def policy(self, default: DecodeErrors = "strict") -> DecodeErrors:
        """Return the policy of ``--decode-errors``. Raises UsageError for an unknown one."""
        match self.decode_errors:
            case "":
                return default
            case "strict" | "replace" | "skip":
                return self.decode_errors
            case _:
                raise UsageError(
                    f"Unknown --decode-errors {self.decode_errors!r}.", hint="Use strict, replace or skip."
                )

    def settings(self) -> tuple[str, ...]:
        """Return the options that are no settings of a source, as ``section.key=value``."""
        damage = [f"data.decode_errors={self.policy()}"] if self.decode_errors else []
        return (*damage, *([f"data.max_bad_lines={self.max_bad_lines}"] if self.max_bad_lines else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerOptions:
    """Options of every command that trains on text."""

    tokenizer: ExistingTokenizer = ""
    end_token: EndToken = ""
    duplicates: DuplicatesOption = ""

    def settings(self) -> tuple[str, ...]:
        """Return the options as settings of a run. Raises TokenizerError."""
        section = parse_duplicates(self.duplicates).model_dump_json() if self.duplicates else ""
        return (*self._tokenizer_settings(), *([f"data.duplicates={section}"] if section else []))

    def _tokenizer_settings(self) -> tuple[str, ...]:
        """Return the tokenizer, and the size of the model's vocabulary."""
        if not self.tokenizer:
            if self.end_token:
                raise UsageError("--end-token is only for --tokenizer.", hint="Or set tokenizer.eos_token=TOKEN.")
            return ()
        config = tokenizer_of(self.tokenizer, self.end_token)
        size = getattr(config, "vocab_size", 0) or loading.train(config, ()).vocab_size
        return f"tokenizer={json.dumps(config.model_dump(mode='json'))}", f"model.vocab_size={size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """Options of every command that prepares conversations for training."""

    chat_template: ChatTemplateOption = "auto"
    special_tokens_in_text: SpecialTokensInText = False
    loss_on: LossOnOption = "all"

    def chosen_loss(self) -> LossOn:
        """Return what is learned. Raises UsageError for an unknown choice."""
        match self.loss_on:
            case "all" | "answers":
                return self.loss_on
            case _:
                raise UsageError(f"Unknown --loss-on {self.loss_on!r}.", hint="Use all or answers.")

    def settings(self) -> tuple[str, ...]:
        """Return the options as settings of a run."""
        template = [f"data.chat_template={json.dumps(self.chat_template)}"] if self.chat_template != "auto" else []
        special = ["data.special_tokens_in_text=true"] if self.special_tokens_in_text else []
        return (*template, *special, *([f"data.loss_on={self.chosen_loss()}"] if self.loss_on != "all" else []))


OPTION_GROUPS = (ReadingOptions, ChatOptions, TokenizerOptions)


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each argument of a command that is one of OPTION_GROUPS by the options of that group."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.annotation not in OPTION_GROUPS:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = group = parameter.annotation
        hints = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in fields(group)
        ]

    @wraps(command)
    def with_groups(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    expanded: Any = with_groups
    expanded.__signature__ = inspect.Signature(parameters)
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_groups


def split_words(words: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (texts, settings) of the words after the first one: settings are written ``section.key=value``."""
    settings = tuple(word for word in words or () if "=" in word)
    return tuple(word for word in words or () if "=" not in word), settings


def split_first(what: str, words: Sequence[str] | None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return (text, further texts, settings) of all words of a command, whose first word may be a setting.

    The text is empty if there are only settings.
    """
    texts, settings = split_words(words)
    key, equals, _ = what.partition("=")
    is_setting = equals and ("." in key or key in RunConfig.model_fields) and not os.path.lexists(what)
    if not is_setting:
        return what, texts, settings
    return "".join(texts[:1]), texts[1:], (what, *settings)


def tokenizer_of(text: str, end_token: str = "", max_lost_characters: float = 0.0001) -> TokenizerConfig:
    """Parse ``--tokenizer`` with its options. Raises UsageError for options that only imported tokenizers have."""
    config = loading.parse(text)
    if isinstance(config, Pretrained):
        return config.model_copy(update={"eos_token": end_token, "max_lost_characters": max_lost_characters})
    if end_token:
        raise UsageError(f"--end-token is only for an existing tokenizer, not for {text}.", hint="Leave it out.")
    return config


def validation_section(
    source: Source, reading: ReadingOptions, validation: str, held_out: float
) -> Holdout | ValidationSource:
    """Return the validation split: a separate text, a share of the documents, or what the names of the files say."""
    if validation:
        return ValidationSource(source=replace(reading, limit=0).source(validation))
    return Holdout(fraction=require_fraction(held_out)) if held_out else default_validation(source)


def require_fraction(held_out: float) -> float:
    """Return ``held_out`` if it is between 0 and 1. Raises UsageError otherwise."""
    if not 0 < held_out < 1:
        raise UsageError(f"--held-out must be between 0 and 1, not {held_out:g}.", hint="For example --held-out 0.01.")
    return held_out


# ---------------------------------------------------------------- requests


def require_defaults(
    reading: ReadingOptions, tokenizing: TokenizerOptions, words: Sequence[str] | None, run: str
) -> None:
    """Raise UsageError for options of a text, which a run has already read."""
    more, _ = split_words(words)
    if more or reading != ReadingOptions() or tokenizing != TokenizerOptions():
        raise UsageError(f"{run} is a run, whose text is prepared.", hint="Leave out the options of a text.")


def text_request(
    what: str,
    words: Sequence[str] | None,
    reading: ReadingOptions,
    tokenizing: TokenizerOptions,
    *,
    data: str,
    engine: str,
    steps: int = 0,
) -> TrainRequest:
    """Return the request for ``what`` and the words after it, with the options of the command."""
    what, more, settings = split_first(what, words)
    if not what and not settings:
        raise UsageError("No text was given.", hint="Give a text, a preset or a .yaml config.")
    if not what:
        raise UsageError(
            f"{settings[0]} is a setting; what it changes is missing.",
            hint=f"Give a text, a preset or a .yaml config before it: TEXT {shlex.quote(settings[0])}",
        )
    return TrainRequest(
        what=what,
        more=more,
        data=data,
        engine=engine,
        steps=steps,
        reading=reading.changes(),
        overrides=(*reading.settings(), *tokenizing.settings(), *settings),
    )
