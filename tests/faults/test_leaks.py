"""The same document in training and validation text: the split by hash makes it impossible, the doctor finds it.

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
        own = list(stories(DOCUMENTS, seed=trial))
        train, held = own[:400], own[400:]
        planted = generator.sample(train, generator.randrange(100))
        repeated = generator.choices(train, k=generator.randrange(100))
        doctor = DataQuality()
        for text in generator.sample(train + repeated, len(train) + len(repeated)):
            doctor.add(text, document_hash(text), False)
        for text in generator.sample(held + planted, len(held) + len(planted)):
            doctor.add(text, document_hash(text), True)
        report = doctor.report()
        assert report.facts["overlap"] == len(planted)
        assert report.facts["duplicates"] == len(planted) + len(repeated)
        assert any("also in the training text" in warning for warning in report.warnings) == bool(planted)


@pytest.mark.fault("B15", cases=TRIALS)
def test_the_hash_split_never_separates_duplicates(tmp_path: Path) -> None:
    """Whatever files they come from, and however these end their lines."""
    for trial in range(TRIALS):
        generator = random.Random(trial)
        texts = list(stories(50, seed=trial))
        for number, line_end in enumerate(("\n", "\r\n", "\n")):
            shuffled = generator.choices(texts, k=100)
            joined = "\n<|endoftext|>\n".join(shuffled).replace("\n", line_end)
            (tmp_path / f"{number}.txt").write_bytes(joined.encode())
        doctor = DataQuality()
        for text in documents(FilesSource(paths=(str(tmp_path),))):
            doctor.add(text, document_hash(text), in_holdout(document_hash(text), 0.3))
        facts = doctor.report().facts
        assert facts["overlap"] == 0
        assert facts["duplicates"] == 300 - len(
            {document_hash(text) for text in documents(FilesSource(paths=(str(tmp_path),)))}
        )
        assert min(facts[side]["documents"] for side in ("training", "validation")) > 0
