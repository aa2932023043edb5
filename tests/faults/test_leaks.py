"""Tests that the hash split never puts a document in both training and validation text, and that DataQuality counts it.

Row B15 of the fault matrix.
"""

import random
from pathlib import Path

import pytest

from fabella.config.data import FilesSource
from fabella.data.prepare.holdout import document_hash, in_holdout
from fabella.text.data_quality import DataQuality
from fabella.text.source import documents
from fabella.text.storybook.generator import stories

TRIALS = 20
DOCUMENTS = 500


@pytest.mark.fault("B15", cases=TRIALS)
def test_every_planted_duplicate_is_counted() -> None:
    for trial in range(TRIALS):
        generator = random.Random(trial)
        documents_of_trial = list(stories(DOCUMENTS, seed=trial))
        train, holdout = documents_of_trial[:400], documents_of_trial[400:]
        leaked = generator.sample(train, generator.randrange(100))
        repeated = generator.choices(train, k=generator.randrange(100))
        quality = DataQuality()
        for text in generator.sample(train + repeated, len(train) + len(repeated)):
            quality.add(text, document_hash(text), False)
        for text in generator.sample(holdout + leaked, len(holdout) + len(leaked)):
            quality.add(text, document_hash(text), True)
        report = quality.report()
        assert report.facts["overlap"] == len(leaked)
        assert report.facts["duplicates"] == len(leaked) + len(repeated)
        assert any("also in the training text" in warning for warning in report.warnings) == bool(leaked)


@pytest.mark.fault("B15", cases=TRIALS)
def test_the_hash_split_never_separates_duplicates(tmp_path: Path) -> None:
    """Duplicates may come from different files with different line ends."""
    for trial in range(TRIALS):
        generator = random.Random(trial)
        texts = list(stories(50, seed=trial))
        for number, line_end in enumerate(("\n", "\r\n", "\n")):
            shuffled = generator.choices(texts, k=100)
            joined = "\n<|endoftext|>\n".join(shuffled).replace("\n", line_end)
            (tmp_path / f"{number}.txt").write_bytes(joined.encode())
        quality = DataQuality()
        for text in documents(FilesSource(paths=(str(tmp_path),))):
            quality.add(text, document_hash(text), in_holdout(document_hash(text), 0.3))
        facts = quality.report().facts
        assert facts["overlap"] == 0
        assert facts["duplicates"] == 300 - len(
            {document_hash(text) for text in documents(FilesSource(paths=(str(tmp_path),)))}
        )
        assert min(facts[side]["documents"] for side in ("training", "validation")) > 0
