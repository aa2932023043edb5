"""Request of a command that takes a text, a preset or a config as ``fabella train`` does."""

from collections.abc import Sequence

from fabella.cli.text_options import ReadingOptions, TokenizerOptions, Words, expand_options, split_words
from fabella.training.setup.request import TrainRequest

__all__ = ["ReadingOptions", "TokenizerOptions", "Words", "expand_options", "text_request"]


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
