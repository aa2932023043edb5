"""Tokenizer of a dataset, trained on all training text or on a reproducible sample of a large one, or loaded."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fabella.config.data import DataConfig, TokenizerConfig
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.progress import CorpusSize, ProgressMeter, Report
from fabella.data.prepare.splitting import SplitDocument
from fabella.errors import DataError
from fabella.text.chat.marks import text_parts
from fabella.text.chat.template import ConversationWriter
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer

MAX_SAMPLE_BYTES = 100_000_000
"""Bytes of the sample: more text hardly changes the merges, and trainers keep all of its words in memory."""


class ByteBudgetSample:
    """Documents whose hash is below a bound, which is halved whenever they exceed ``max_bytes`` bytes."""

    def __init__(self, max_bytes: int = MAX_SAMPLE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bound = 2**64
        self._sampled: list[tuple[int, str, int]] = []
        self.read_bytes = self.sampled_bytes = 0
        """Bytes of all documents, and of the sampled ones."""

    def add(self, document: SplitDocument) -> None:
        """Sample the document if its hash is below the bound."""
        # The half of the hash that does not determine the split.
        number, size = int.from_bytes(document.digest[8:], "big"), len(document.text.encode())
        self.read_bytes += size
        if number >= self._bound:
            return
        self._sampled.append((number, document.text, size))
        self.sampled_bytes += size
        while self.sampled_bytes > self._max_bytes and len(self._sampled) > 1:
            self._bound //= 2
            self._sampled = [entry for entry in self._sampled if entry[0] < self._bound]
            self.sampled_bytes = sum(size for _, _, size in self._sampled)

    def texts(self) -> Iterator[str]:
        """Return the sampled documents in order."""
        return (text for _, text, _ in self._sampled)

    def message(self) -> str:
        """Return a sentence about the sample."""
        if self.sampled_bytes == self.read_bytes:
            return "the tokenizer was trained on all of the training text"
        return (
            f"the tokenizer was trained on {self.sampled_bytes / 1e6:.1f} of {self.read_bytes / 1e6:.1f} MB "
            "of the training text, documents chosen by hash"
        )


def sample_bytes(documents: Iterable[SplitDocument], max_bytes: int = MAX_SAMPLE_BYTES) -> ByteBudgetSample:
    """Sample the training split of ``documents``."""
    sample = ByteBudgetSample(max_bytes)
    for document in documents:
        if not document.held_out:
            sample.add(document)
    return sample


def open_corpus(data: DataConfig, config: TokenizerConfig, report: Report | None) -> Corpus:
    """Return the corpus of a config, whose conversations are written with the chat template for the tokenizer."""
    template = loading.chat_template_of(data.chat_template, config)
    return Corpus(data, report, ConversationWriter(template, marks=True, mark_answer=data.loss_on == "answers"))


def train_tokenizer(corpus: Corpus, config: TokenizerConfig, report: Report | None) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer with the special tokens of the chat template, and remarks about it.

    If it needs text, it is trained on the training split only.
    """
    special_tokens = corpus.writer.template.special_tokens
    if not loading.needs_text(config):
        return loading.train(config, (), special_tokens), []
    sample = sample_bytes(corpus.split_documents("sampling"))
    if not sample.sampled_bytes:
        raise DataError("No training document is left to train a tokenizer on.", hint="Use more text.")
    meter = ProgressMeter("training the tokenizer", CorpusSize(bytes=sample.sampled_bytes), report)
    texts = (part for text in sample.texts() for part in text_parts(text))
    return loading.train(config, meter.watch(texts), special_tokens), [sample.message()]


def keep_chat_template(corpus: Corpus, data: DataConfig, tokenizer: Tokenizer, directory: Path) -> list[str]:
    """Save the chat template with the tokenizer if it has written conversations; return a remark if it has not."""
    if corpus.writer.written:
        tokenizer.chat_template = corpus.writer.template
        tokenizer.save(directory)
    elif data.chat_template != "auto":
        return [f"data.chat_template = {data.chat_template} has no effect: the text has no conversations"]
    return []
