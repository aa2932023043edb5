"""Tokenizer of a dataset: trained on its training split, or loaded and checked."""

from itertools import islice

from fabella.config.data import Pretrained, TokenizerConfig
from fabella.data.prepare import tokenizer_sample
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.progress import CorpusSize, ProgressMeter, Report
from fabella.errors import DataError
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer

ROUND_TRIPS = 100
"""Documents decoded again with a pretrained tokenizer, to check that it returns the text."""


def train_tokenizer(corpus: Corpus, config: TokenizerConfig, report: Report | None) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer, trained on the training split only if it needs text, and remarks about it."""
    if not loading.needs_text(config):
        tokenizer = loading.train(config, ())
        changes = _changed_texts(corpus, tokenizer) if isinstance(config, Pretrained) else []
        return tokenizer, changes
    sample = tokenizer_sample.sample_bytes(corpus.split_documents("sampling"))
    if not sample.sampled_bytes:
        raise DataError("No training document is left to train a tokenizer on.", hint="Use more text.")
    meter = ProgressMeter("training the tokenizer", CorpusSize(bytes=sample.sampled_bytes), report)
    return loading.train(config, meter.watch(sample.texts())), [sample.message()]


def _changed_texts(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    texts = [document.text for document in islice(corpus.split_documents("inspecting"), ROUND_TRIPS)]
    changed = sum(tokenizer.decode(tokenizer.encode(text).tolist()) != text for text in texts)
    if not changed:
        return []
    return [f"the tokenizer changes text: {changed} of the first {len(texts)} documents differ after a round trip"]
