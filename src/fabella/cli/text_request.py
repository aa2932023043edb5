"""Request of a command that takes a text, a preset or a config as ``fabella train`` does."""

from collections.abc import Sequence

from fabella.cli.text_options import ReadingOptions, TokenizerOptions, Words, expand_options, split_words
from fabella.errors import UsageError
from fabella.training.setup.request import TrainRequest

__all__ = [
    "ReadingOptions", "TokenizerOptions", "Words", "expand_options", "require_defaults", "text_request",
]  # fmt: skip


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
    more, settings = split_words(words)
    return TrainRequest(
        what=what,
        more=more,
        data=data,
        engine=engine,
        steps=steps,
        reading=reading.changes(),
        overrides=(*reading.settings(), *tokenizing.settings(), *settings),
    )
