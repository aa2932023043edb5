"""Tokenizer of a dataset: trained on its training split, or loaded."""

from fabella.config.data import TokenizerConfig
from fabella.data.prepare import tokenizer_sample
from fabella.data.prepare.corpus import Corpus
from fabella.data.prepare.progress import CorpusSize, ProgressMeter, Report
from fabella.errors import DataError
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer


def train_tokenizer(corpus: Corpus, config: TokenizerConfig, report: Report | None) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer, trained on the training split only if it needs text, and remarks about it."""
    if not loading.needs_text(config):
        return loading.train(config, ()), []
    sample = tokenizer_sample.sample_bytes(corpus.split_documents("sampling"))
    if not sample.sampled_bytes:
        raise DataError("No training document is left to train a tokenizer on.", hint="Use more text.")
    meter = ProgressMeter("training the tokenizer", CorpusSize(bytes=sample.sampled_bytes), report)
    return loading.train(config, meter.watch(sample.texts())), [sample.message()]
