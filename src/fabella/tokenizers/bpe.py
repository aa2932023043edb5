"""Byte-level BPE, trained on the training text with Hugging Face's library and cut into words as GPT-2 does.

Every text, whatever Unicode it holds, becomes ids and comes back unchanged: no normalisation, no added space.
(Sennrich et al. 2016, arXiv 1508.07909; Radford et al. 2019.)
"""

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fabella.config.data import BPE
from fabella.tokenizers.huggingface import HuggingTokenizer

END = "<|endoftext|>"
# The trainer holds each text as symbols of 24 bytes; slices bound that. They break one word in a million characters.
SLICE = 2**20


def train(section: BPE, texts: Iterable[str]) -> HuggingTokenizer:
    """A BPE of at most ``section.vocabulary`` ids: 256 bytes, the end, and merges in the order they were learned.

    Fewer where the text is too small for more. The same texts give the same tokenizer, whatever the threads.
    """
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=section.vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(_sliced(texts), trainer=trainer)
    return HuggingTokenizer(section.kind, library.to_str(), END)


def _sliced(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), SLICE):
            yield text[start : start + SLICE]
