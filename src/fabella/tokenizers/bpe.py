"""Byte-level BPE with the pretokens of GPT-2, trained with the Hugging Face library.

Every Unicode text round-trips unchanged: no normalization, no added space.
(Sennrich et al. 2016, arXiv 1508.07909; Radford et al. 2019.)
"""

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from fabella.config.data import BPE
from fabella.tokenizers.huggingface import HuggingFaceTokenizer

END_OF_TEXT = "<|endoftext|>"
MAX_SLICE = 2**20
"""Characters per training text. The trainer uses 24 bytes per symbol of a text; a slice breaks one word at its end."""


def train(config: BPE, texts: Iterable[str], special_tokens: Sequence[str] = ()) -> HuggingFaceTokenizer:
    """Train a BPE with at most ``config.vocab_size`` ids: 256 bytes, EOS, ``special_tokens``, and
    merges in training order.

    A small text gives fewer ids. The same texts give the same tokenizer, independent of the number of threads.
    """
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(dict.fromkeys([END_OF_TEXT, *special_tokens])),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(_sliced(texts), trainer=trainer)
    return HuggingFaceTokenizer(config.kind, library.to_str(), END_OF_TEXT)


def _sliced(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), MAX_SLICE):
            yield text[start : start + MAX_SLICE]
