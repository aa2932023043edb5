"""Which messages of a long chat the model reads."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from fabella.server.limits import LongChats
from fabella.server.requests.prompts import PromptEncoder

MESSAGE_SEPARATOR = "\n\n"
AnyMessage = TypeVar("AnyMessage")


def select_messages(
    messages: Sequence[AnyMessage],
    encoder: PromptEncoder,
    *,
    new_tokens: int,
    policy: LongChats,
    fits: Callable[[Sequence[AnyMessage], int], bool],
) -> list[AnyMessage]:
    """Return the messages of a chat that fit into the context, in order.

    ``drop-middle`` keeps the first message, which sets the scene, and the latest ones; ``drop-oldest`` only the latest
    ones; ``refuse`` all, so that encoding them raises an error. The chat leaves space for ``new_tokens``, but for no
    more than half of the context: otherwise the context would be shifted while the answer is generated, and its first
    half lost. The last message is always kept, also if it leaves no space or does not fit.
    ``fits``: whether some of the messages have at most so many tokens.
    """
    kept = list(messages)
    space = encoder.max_tokens - min(new_tokens, encoder.max_tokens // 2)
    if policy == "refuse" or len(kept) < 2 or fits(kept, space):
        return kept
    first = kept[:1] if policy == "drop-middle" else []
    if not fits([*first, kept[-1]], encoder.max_tokens):
        first = []
    # The number of latest messages that fit, by bisection: each test tokenizes the whole chat.
    fitting, too_many = 1, len(kept) - len(first) + 1
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits([*first, *kept[-middle:]], space):
            fitting = middle
        else:
            too_many = middle
    return [*first, *kept[-fitting:]]


def texts_fit(encoder: PromptEncoder, texts: Sequence[str], most: int) -> bool:
    """Return whether the messages of a base model, joined by empty lines, have at most ``most`` tokens."""
    return encoder.fits(MESSAGE_SEPARATOR.join(texts), most)
