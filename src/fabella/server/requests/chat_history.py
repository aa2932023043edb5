"""Which messages of a long chat the model reads."""

from collections.abc import Sequence

from fabella.server.limits import LongChats
from fabella.server.requests.prompts import PromptEncoder

MESSAGE_SEPARATOR = "\n\n"


def select_messages(texts: Sequence[str], encoder: PromptEncoder, *, new_tokens: int, policy: LongChats) -> list[str]:
    """Return the messages of a chat that fit into the context, in order.

    ``drop-middle`` keeps the first message, which sets the scene, and the latest ones; ``drop-oldest`` only the latest
    ones; ``refuse`` all, so that encoding them raises an error. The chat leaves space for ``new_tokens``, but for no
    more than half of the context: otherwise the context would be shifted while the answer is generated, and its first
    half lost. The last message is always kept, also if it leaves no space or does not fit.
    """
    kept = list(texts)
    space = encoder.max_tokens - min(new_tokens, encoder.max_tokens // 2)
    if policy == "refuse" or len(kept) < 2 or _fit(kept, encoder, space):
        return kept
    first = kept[:1] if policy == "drop-middle" else []
    if not _fit([*first, kept[-1]], encoder, encoder.max_tokens):
        first = []
    # The number of latest messages that fit, by bisection: each test tokenizes the whole chat.
    fitting, too_many = 1, len(kept) - len(first) + 1
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if _fit([*first, *kept[-middle:]], encoder, space):
            fitting = middle
        else:
            too_many = middle
    return [*first, *kept[-fitting:]]


def _fit(texts: Sequence[str], encoder: PromptEncoder, most: int) -> bool:
    return encoder.fits(MESSAGE_SEPARATOR.join(texts), most)
