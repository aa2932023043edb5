"""Tests that check-data foresees the texts that train refuses for their size, with advice that train accepts."""

import json
import re
from pathlib import Path

import pytest

from fabella.cli import main
from fabella.config.data import BPE, FilesSource, Pretrained
from fabella.errors import DataError
from fabella.tokenizers.bpe import train as train_bpe
from fabella.training.setup.expected_split import ExpectedSplits
from fabella.training.setup.request import TrainRequest, prepare_data, resolve_request

SETTING = re.compile(r"data\.sequences\.[a-z]+=\d+")


@pytest.mark.parametrize("size", [200, 1000, 2500, 2900, 3300, 9000])
@pytest.mark.parametrize("separator", ["\n\n", " "])
def test_what_train_refuses_is_foreseen(
    size: int, separator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "tales.txt"
    text.write_text(separator.join(f"Tale {n} of a fox." for n in range(size))[:size])
    assert main.run(["check-data", str(text), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    foreseen = [warning for warning in warnings if "fabella train refuses" in warning]
    run = resolve_request(TrainRequest(what=str(text))).run
    if not foreseen:
        prepare_data(run, tmp_path / "prepared", workers=1)
        return
    with pytest.raises(DataError, match="too small") as refused:
        prepare_data(run, tmp_path / "prepared", workers=1)
    assert str(refused.value).partition("Use ")[2] == foreseen[0].partition("Use ")[2]
    settings = SETTING.findall(str(refused.value))
    shorter = resolve_request(TrainRequest(what=str(text), overrides=settings)).run
    prepare_data(shorter, tmp_path / "shorter", workers=1)


def test_an_existing_tokenizer_counts_tokens_and_losses(tmp_path: Path) -> None:
    tokenizer = train_bpe(BPE(vocab_size=270), ["Once upon a time. " * 9])
    tokenizer.save(tmp_path / "tokenizer")
    expected = ExpectedSplits(FilesSource(paths=("a.txt",)), Pretrained(source=str(tmp_path / "tokenizer")))
    texts = ["Once upon a time.", "The end."]
    for text in texts:
        expected.add(text, held_out=False)
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    assert next(expected.remarks()).startswith(f"tokens: {tokens:,} (")
    assert len(list(expected.warnings())) == 1
