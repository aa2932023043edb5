"""From a source of text to a prepared folder."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabella.config.data import (
    BPE,
    Bytes,
    FilesSource,
    Holdout,
    Padded,
    Pretrained,
    SentencePiece,
    StorybookSource,
    ValidationSource,
)
from fabella.data.dataset import Split, TokenizedDataset, open_dataset
from fabella.data.prepare import pipeline as preparing
from fabella.data.prepare.pipeline import prepare
from fabella.data.prepare.progress import PrepareProgress
from fabella.data.prepare.tokenizer_sample import MOST_BYTES
from fabella.errors import DataError, PreparedDataError, StorageError, TextError, TokenizerError, TrainingInterrupted
from fabella.tokenizers import pretrained
from tests.data.samples import SMALL, all_ids, content, data, lines, prepared, words
from tests.data.timeouts import has_ended
from tests.processes import started
from tests.source_tree import REPOSITORY
from tests.tokenizers.samples import trained
from tests.tokenizers.test_sentencepiece import model

# Kills of one process, and of one with two workers (which take half a second to start).
KILLS = {1: 96, 2: 4}


def texts(side: Split, of: TokenizedDataset) -> list[str]:
    ids, offsets = all_ids(side), side.offsets.tolist()
    return [of.tokenizer.decode(ids[start:stop].tolist()) for start, stop in pairwise(offsets)]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a few stories are many, and workers are used."""
    monkeypatch.setattr(preparing, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(preparing, "CHUNKS_HERE", 1)


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("tokenizer", [Bytes(), BPE(vocab_size=400), SentencePiece(vocab_size=400)])
def test_documents_are_all_there_in_their_order(tokenizer: Bytes | BPE | SentencePiece, tmp_path: Path) -> None:
    stories = [words(number, 30 + number) for number in range(50)]
    of = data(lines(tmp_path / "a.txt", stories))
    made = prepare(of, tokenizer, tmp_path / "out", workers=1)
    train, held_out = texts(made.train, made), texts(made.validation, made)
    assert train == [story for story in stories if story in set(train)]
    assert held_out == [story for story in stories if story in set(held_out)]
    assert len(train) + len(held_out) == 50
    assert made.train.bytes == sum(len(story) for story in train)
    assert (made.train.offsets[1:] > made.train.offsets[:-1]).all()
    assert (all_ids(made.train)[made.train.offsets[1:] - 1] == made.tokenizer.eos_id).all()


def test_the_tokenizer_learns_from_the_training_side_alone(tmp_path: Path) -> None:
    train = [f"{words(number, 20)} {number}" for number in range(50)]
    of = data(
        lines(tmp_path / "a.txt", train), ValidationSource(source=lines(tmp_path / "v.txt", ["xyzzy xyzzy xyzzy"] * 50))
    )
    made = prepared(tmp_path / "out", of, BPE(vocab_size=400))
    pieces = [made.tokenizer.token_bytes(number) for number in range(made.tokenizer.vocab_size)]
    assert not [piece for piece in pieces if b"zz" in piece]
    assert "the tokenizer was trained on all of the training text" in made.manifest["notes"]
    assert MOST_BYTES == 100_000_000


@pytest.mark.usefixtures("small_chunks")
def test_workers_and_one_process_write_the_same(tmp_path: Path) -> None:
    for workers in (1, 2):
        prepare(data(), BPE(vocab_size=400), tmp_path / str(workers), workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_the_manifest_says_what_it_is_and_where_it_comes_from(tmp_path: Path) -> None:
    made = prepared(tmp_path / "out", tokenizer=BPE(vocab_size=400))
    manifest = made.manifest
    assert manifest["kind"] == "prepared data"
    assert manifest["description"] == "storybook (60 stories, seed 1)"
    assert manifest["data"]["source"] == SMALL.model_dump(mode="json")
    assert manifest["data"]["validation"] == Holdout(fraction=0.2).model_dump(mode="json")
    assert manifest["tokenizer"]["section"] == {"kind": "bpe", "vocab_size": 400}
    assert manifest["tokenizer"]["fingerprint"] == made.tokenizer.fingerprint
    assert manifest["dtype"] == "uint16"
    assert manifest["data_quality"]["facts"]["documents"] == 60
    assert manifest["data_quality"]["facts"]["tokens"] == made.train.tokens + made.validation.tokens
    assert set(manifest["files"]) == set(content(tmp_path / "out")) - {"manifest.json"}


def test_the_doctor_knows_the_model(tmp_path: Path) -> None:
    made = prepare(data(), Bytes(), tmp_path / "out", model_parameters=10**9, tokens_to_train=10**9)
    assert made.manifest["data_quality"]["facts"]["model_parameters"] == 10**9
    assert made.manifest["data_quality"]["facts"]["epochs"] > 1000
    assert made.manifest["data_quality"]["warnings"]


def test_a_vocabulary_beyond_16_bits(tmp_path: Path) -> None:
    values = json.loads(trained("bpe", 400)._text)  # pyright: ignore[reportAttributeAccessIssue]
    values["model"]["vocab"]["far"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    made = prepare(data(), Pretrained(source=str(tmp_path / "tokenizer.json")), tmp_path / "out")
    assert made.manifest["dtype"] == "uint32"
    assert made.train.read(0, 10).dtype == np.uint32


def test_a_tokenizer_that_changes_text_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "foreign.model").write_bytes(model())
    made = prepare(data(), Pretrained(source=str(tmp_path / "foreign.model")), tmp_path / "out")
    assert made.tokenizer.kind == pretrained.KIND
    assert (
        "the tokenizer changes text: 60 of the first 60 documents do not come back as they were"
        in made.manifest["notes"]
    )


def test_training_documents_of_the_validation_text_are_dropped_and_counted(tmp_path: Path) -> None:
    stories = [words(number, 40) for number in range(30)]
    of = data(lines(tmp_path / "a.txt", stories), ValidationSource(source=lines(tmp_path / "v.txt", stories[5:8])))
    made = prepared(tmp_path / "out", of)
    assert texts(made.train, made) == stories[:5] + stories[8:]
    assert texts(made.validation, made) == stories[5:8]
    assert "3 training documents that also stand in the validation text were dropped" in made.manifest["notes"]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[PrepareProgress] = []
    prepare(
        data(StorybookSource(stories=3000), Holdout(fraction=0.04)),
        BPE(vocab_size=300),
        tmp_path / "out",
        workers=1,
        progress=told.append,
    )
    phases = list(dict.fromkeys(one.doing for one in told))
    assert phases == ["looking", "sampling", "learning the tokenizer", "encoding"]
    assert all(0 < one.share <= 1 for one in told if one.doing != "looking")


# ---------------------------------------------------------------- a folder that is there


def test_prepared_from_the_same_it_is_taken_as_it_is(tmp_path: Path) -> None:
    made = prepared(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepared(tmp_path / "out").fingerprint == made.fingerprint
    assert prepare(data(windows=Padded(length=99)), Bytes(), tmp_path / "out").fingerprint == made.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize("same", [True, False])
def test_prepared_by_another_process_meanwhile_it_is_taken_where_it_is_the_same(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = data(), data() if same else data(StorybookSource(stories=61))
    fill, calls = vars(preparing)["_fill"], list[None]()

    def filled(*given: Any) -> Any:
        calls.append(None)
        if len(calls) == 1:  # the other one comes later and is through sooner
            prepare(others, Bytes(), tmp_path / "out", workers=1)
        return fill(*given)

    monkeypatch.setattr(preparing, "_fill", filled)
    if same:
        prepare(mine, Bytes(), tmp_path / "out", workers=1)
        assert len(calls) == 2
    else:
        with pytest.raises(StorageError, match="made from other text or settings"):
            prepare(mine, Bytes(), tmp_path / "out", workers=1)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out"}


def test_prepared_from_something_else_it_is_refused_naming_both(tmp_path: Path) -> None:
    prepared(tmp_path / "out")
    told = (
        r"out holds storybook \(60 stories, seed 1\) \(bytes\), made from other text or settings than "
        r"storybook \(61 stories, seed 1\) \(bpe, vocabulary 300\)\. Choose another folder, or remove it"
    )
    with pytest.raises(StorageError, match=told):
        prepare(data(StorybookSource(stories=61)), BPE(vocab_size=300), tmp_path / "out")


@pytest.mark.fault("B14", cases=1)
def test_text_that_has_changed_since_is_noticed(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "a.txt", [words(number, 50) for number in range(20)]))
    prepared(tmp_path / "out", of)
    with (tmp_path / "a.txt").open("a") as file:
        file.write("!")
    with pytest.raises(StorageError, match=r"out holds .*a\.txt \(bytes\), made from other text or settings than"):
        prepared(tmp_path / "out", of)


@pytest.mark.parametrize("what", ["file", "folder", "damaged"])
def test_a_folder_that_holds_something_else_is_refused(what: str, tmp_path: Path) -> None:
    place = tmp_path / "out"
    if what == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "manifest.json").write_text("{" if what == "damaged" else "{}")
    before = content(tmp_path)
    with pytest.raises(StorageError, match=r"out exists already and holds no prepared data .* Choose another folder"):
        prepared(place)
    assert content(tmp_path) == before


# ---------------------------------------------------------------- little or no text


@pytest.mark.fault("B3", cases=8)
@pytest.mark.parametrize(
    ("written", "error", "told"),
    [
        ("", TextError, "empty|no text"),
        ("\n\n\n\n", TextError, "no text"),
        (" \t \n", TextError, "no text"),
        ("a", DataError, "no two characters to learn from"),
        ("ab", DataError, r"The train text is too small: 2 tokens, and one window of 32 needs 33"),
        (
            "once upon a time",
            DataError,
            r"one window of 32 needs 33\. Bring 3 times more text, or lower data\.sequences",
        ),
        ("x" * 100, DataError, r"The validation text is too small: 21 tokens, and one window of 32 needs 33"),
        ("one\n\ntwo", DataError, r"too small"),
    ],
)
def test_too_little_text_says_what_is_needed(written: str, error: type[DataError], told: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(written)
    with pytest.raises(error, match=told):
        prepared(tmp_path / "out", data(FilesSource(paths=(str(tmp_path / "a.txt"),))))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.fault("B3", cases=1)
def test_a_single_document_is_split_by_position(tmp_path: Path) -> None:
    text = words(1, 400)
    made = prepared(tmp_path / "out", data(lines(tmp_path / "a.txt", [text])))
    (train,), (held_out,) = texts(made.train, made), texts(made.validation, made)
    assert train + held_out == text
    assert made.manifest["notes"][0].startswith("held out for validation: the last 20 % of the longest document")


@pytest.mark.fault("B3", cases=2)
@pytest.mark.parametrize("name", ["shard-00000.npy", "offsets.npy"])
def test_a_file_of_no_bytes(name: str, tmp_path: Path) -> None:
    prepared(tmp_path / "out")
    (tmp_path / "out" / "train" / name).write_bytes(b"")
    with pytest.raises(PreparedDataError, match=rf"train/{name}: size 0 != \d+ in manifest"):
        open_dataset(tmp_path / "out")


def test_all_training_documents_dropped(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "a.txt", ["one"]), ValidationSource(source=lines(tmp_path / "v.txt", ["one"])))
    with pytest.raises(DataError, match=r"No train document is left\. Bring more text"):
        prepared(tmp_path / "out", of)
    with pytest.raises(DataError, match="No training document is left to learn a tokenizer from"):
        prepared(tmp_path / "out", of, BPE(vocab_size=300))


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError):
        prepare(data(), Pretrained(source=str(tmp_path / "none.json")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- interrupted and killed


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(progress: PrepareProgress) -> None:
        if progress.doing == "encoding":
            raise KeyboardInterrupt

    told = r"Interrupted while preparing .*out; nothing was left behind\. Run the same command again"
    with pytest.raises(TrainingInterrupted, match=told):
        prepare(data(StorybookSource(stories=3000)), Bytes(), tmp_path / "out", workers=1, progress=interrupt)
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import sys
from itertools import pairwise
from pathlib import Path
from fabella.config.data import Bytes, Packed, DataConfig, StorybookSource
from fabella.data.prepare import pipeline as preparing
from fabella.data.prepare.worker_pool import Workers
from fabella.errors import TrainingInterrupted

started = Workers.__init__
def tell(self, *arguments, **options):
    started(self, *arguments, **options)
    print("pids", *self.pids, flush=True)
Workers.__init__ = tell
preparing.CHUNK_BYTES, preparing.CHUNKS_HERE = 2000, 1
data = DataConfig(source=StorybookSource(stories=10**6), sequences=Packed(length=32, stride=32))
try:
    preparing.prepare(data, Bytes(), Path(sys.argv[1]), workers=2)
except TrainingInterrupted as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def test_ctrl_c_for_the_whole_group_ends_workers_and_leaves_nothing(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of the group."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "out")]
    with started(command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=REPOSITORY) as process:
        assert process.stdout
        _, *pids = process.stdout.readline().split()
        os.killpg(process.pid, signal.SIGINT)
        told = process.stdout.read()
        assert process.wait() == 130
    assert "nothing was left behind" in told
    assert len(pids) == 2
    assert all(has_ended(int(pid)) for pid in pids)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("B1", cases=sum(KILLS.values()))
def test_killed_at_any_moment_and_begun_again_it_writes_the_same(tmp_path: Path) -> None:
    for workers, kills in KILLS.items():
        base = tmp_path / str(workers)
        base.mkdir()
        command = [
            sys.executable,
            "-m",
            "tests.data.prepare.killed_while_preparing",
            str(base),
            str(kills),
            str(workers),
            "8",
        ]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout) == {"killed": kills, "half": 0, "different": 0, "left": 0}
