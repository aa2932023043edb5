"""Tests of the preparation of a dataset from a text source."""

import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
from fabella.data.prepare.tokenizer_sample import MAX_SAMPLE_BYTES
from fabella.errors import DataError, PreparedDataError, StorageError, TextError, TokenizerError, TrainingInterrupted
from fabella.tokenizers import pretrained
from tests.data.samples import SMALL, all_ids, all_learned, chat_file, content, data, lines, prepared, words
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
    """Chunks so small that a few stories need workers."""
    monkeypatch.setattr(preparing, "CHUNK_BYTES", 2000)
    monkeypatch.setattr(preparing, "CHUNKS_WITHOUT_WORKERS", 1)


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("tokenizer", [Bytes(), BPE(vocab_size=400), SentencePiece(vocab_size=400)])
def test_all_documents_are_present_in_order(tokenizer: Bytes | BPE | SentencePiece, tmp_path: Path) -> None:
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


def test_the_tokenizer_is_trained_on_the_training_split_only(tmp_path: Path) -> None:
    train = [f"{words(number, 20)} {number}" for number in range(50)]
    of = data(
        lines(tmp_path / "a.txt", train), ValidationSource(source=lines(tmp_path / "v.txt", ["xyzzy xyzzy xyzzy"] * 50))
    )
    made = prepared(tmp_path / "out", of, BPE(vocab_size=400))
    pieces = [made.tokenizer.token_bytes(number) for number in range(made.tokenizer.vocab_size)]
    assert not [piece for piece in pieces if b"zz" in piece]
    assert "the tokenizer was trained on all of the training text" in made.manifest["notes"]
    assert MAX_SAMPLE_BYTES == 100_000_000


@pytest.mark.usefixtures("small_chunks")
def test_workers_and_one_process_write_the_same_bytes(tmp_path: Path) -> None:
    for workers in (1, 2):
        prepare(data(), BPE(vocab_size=400), tmp_path / str(workers), workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_the_manifest_has_kind_and_source(tmp_path: Path) -> None:
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


def test_the_data_quality_report_considers_the_model(tmp_path: Path) -> None:
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


def test_a_tokenizer_that_changes_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "foreign.model").write_bytes(model())
    foreign = Pretrained(source=str(tmp_path / "foreign.model"), max_lost_characters=1.0)
    made = prepare(data(), foreign, tmp_path / "out")
    assert made.tokenizer.kind == pretrained.KIND
    assert "The tokenizer changes line ends in 60 of 60 documents." in made.manifest["notes"]


@pytest.mark.fault("I7", cases=2)
@pytest.mark.parametrize("workers", [1, 2])
def test_characters_that_a_tokenizer_loses_are_counted_to_the_end_and_refused(
    tmp_path: Path, small_chunks: None, workers: int
) -> None:
    """A byte-level BPE without the whole byte alphabet drops what it did not see, without a word."""
    english = [words(number, 30) for number in range(60)]
    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.train_from_iterator(english, trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"]))
    library.save(str(tmp_path / "tokenizer.json"))
    of = data(lines(tmp_path / "a.txt", [*english, *(f"从前有一只狐狸{number}" for number in range(20))]))
    strict = Pretrained(source=str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        TokenizerError, match=r"loses 1\d\d of [\d,]+ characters .*: it has no tokens for them"
    ) as error:
        prepare(of, strict, tmp_path / "out", workers=workers)
    assert "--tokenizer bpe:4096" in error.value.hint
    assert not (tmp_path / "out").exists()
    lenient = strict.model_copy(update={"max_lost_characters": 1.0})
    made = prepare(of, lenient, tmp_path / "out", workers=workers)
    assert any(note.startswith("The tokenizer loses 1") for note in made.manifest["notes"])


def test_training_documents_that_are_in_the_validation_source_are_dropped_and_counted(tmp_path: Path) -> None:
    stories = [words(number, 40) for number in range(30)]
    of = data(lines(tmp_path / "a.txt", stories), ValidationSource(source=lines(tmp_path / "v.txt", stories[5:8])))
    made = prepared(tmp_path / "out", of)
    assert texts(made.train, made) == stories[:5] + stories[8:]
    assert texts(made.validation, made) == stories[5:8]
    assert "3 training documents that are also in the validation source were dropped" in made.manifest["notes"]


def test_progress_is_reported_for_every_phase(tmp_path: Path) -> None:
    reports: list[PrepareProgress] = []
    prepare(
        data(StorybookSource(stories=3000), Holdout(fraction=0.04)),
        BPE(vocab_size=300),
        tmp_path / "out",
        workers=1,
        progress=reports.append,
    )
    phases = list(dict.fromkeys(report.phase for report in reports))
    assert phases == ["inspecting", "sampling", "training the tokenizer", "encoding"]
    assert all(0 < report.share <= 1 for report in reports if report.phase != "inspecting")


# ---------------------------------------------------------------- an existing folder


def test_a_dataset_of_the_same_inputs_is_opened(tmp_path: Path) -> None:
    made = prepared(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepared(tmp_path / "out").fingerprint == made.fingerprint
    assert prepare(data(sequences=Padded(length=99)), Bytes(), tmp_path / "out").fingerprint == made.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize("same", [True, False])
def test_a_dataset_that_another_process_finished_first_is_opened_if_it_is_the_same(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_config, other_config = data(), data() if same else data(StorybookSource(stories=61))
    fill, calls = vars(preparing)["_write"], list[None]()

    def write_after_other_process(*given: Any) -> Any:
        calls.append(None)
        if len(calls) == 1:  # the other process starts later and finishes first
            prepare(other_config, Bytes(), tmp_path / "out", workers=1)
        return fill(*given)

    monkeypatch.setattr(preparing, "_write", write_after_other_process)
    if same:
        prepare(own_config, Bytes(), tmp_path / "out", workers=1)
        assert len(calls) == 2
    else:
        with pytest.raises(StorageError, match="prepared from another text or config"):
            prepare(own_config, Bytes(), tmp_path / "out", workers=1)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out"}


def test_a_dataset_of_other_inputs_is_refused_with_both_named(tmp_path: Path) -> None:
    prepared(tmp_path / "out")
    message = (
        r"out contains storybook \(60 stories, seed 1\) \(bytes\), prepared from another text or config than "
        r"storybook \(61 stories, seed 1\) \(bpe, vocab_size 300\)\. Choose another directory, or delete it"
    )
    with pytest.raises(StorageError, match=message):
        prepare(data(StorybookSource(stories=61)), BPE(vocab_size=300), tmp_path / "out")


@pytest.mark.fault("B14", cases=1)
def test_text_that_has_changed_since_preparation_is_noticed(tmp_path: Path) -> None:
    config = data(lines(tmp_path / "a.txt", [words(number, 50) for number in range(20)]))
    prepared(tmp_path / "out", config)
    with (tmp_path / "a.txt").open("a") as file:
        file.write("!")
    with pytest.raises(
        StorageError, match=r"out contains .*a\.txt \(bytes\), prepared from another text or config than"
    ):
        prepared(tmp_path / "out", config)


@pytest.mark.parametrize("what", ["file", "folder", "damaged"])
def test_a_directory_with_something_else_is_refused(what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "manifest.json").write_text("{" if what == "damaged" else "{}")
    before = content(tmp_path)
    with pytest.raises(StorageError, match=r"out exists and is not a prepared dataset .* Choose another directory"):
        prepared(out)
    assert content(tmp_path) == before


# ---------------------------------------------------------------- little or no text


@pytest.mark.fault("B3", cases=8)
@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", TextError, "empty|no text"),
        ("\n\n\n\n", TextError, "no text"),
        (" \t \n", TextError, "no text"),
        ("a", DataError, "needs at least two characters"),
        ("ab", DataError, r"The train split is too small: 2 tokens; a sequence of 32 needs 33"),
        (
            "once upon a time",
            DataError,
            r"a sequence of 32 needs 33\. Use 9 times more text, or shorter sequences: data\.sequences",
        ),
        ("x" * 100, DataError, r"The validation split is too small: 21 tokens; a sequence of 32 needs 33"),
        ("one\n\ntwo", DataError, r"too small"),
    ],
)
def test_too_little_text_is_an_error_with_a_hint(
    text: str, error: type[DataError], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(error, match=message):
        prepared(tmp_path / "out", data(FilesSource(paths=(str(tmp_path / "a.txt"),))))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.fault("B3", cases=1)
def test_a_single_document_is_split_by_position(tmp_path: Path) -> None:
    text = words(1, 400)
    made = prepared(tmp_path / "out", data(lines(tmp_path / "a.txt", [text])))
    (train,), (held_out,) = texts(made.train, made), texts(made.validation, made)
    assert train + held_out == text
    assert made.manifest["notes"][0].startswith("held out for validation: the last 20 % of the document")


@pytest.mark.fault("B3", cases=2)
@pytest.mark.parametrize("name", ["shard-00000.npy", "offsets.npy"])
def test_an_empty_file_of_a_dataset_is_corrupt(name: str, tmp_path: Path) -> None:
    prepared(tmp_path / "out")
    (tmp_path / "out" / "train" / name).write_bytes(b"")
    with pytest.raises(PreparedDataError, match=rf"train/{name}: size 0 != \d+ in manifest"):
        open_dataset(tmp_path / "out")


def test_an_error_if_all_training_documents_are_dropped(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "a.txt", ["one"]), ValidationSource(source=lines(tmp_path / "v.txt", ["one"])))
    with pytest.raises(DataError, match=r"No train document is left\. Use more text"):
        prepared(tmp_path / "out", of)
    with pytest.raises(DataError, match="No training document is left to train a tokenizer on"):
        prepared(tmp_path / "out", of, BPE(vocab_size=300))


def test_an_error_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError):
        prepare(data(), Pretrained(source=str(tmp_path / "none.json")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- interrupted and killed


def test_ctrl_c_leaves_no_files(tmp_path: Path) -> None:
    def interrupt(progress: PrepareProgress) -> None:
        if progress.phase == "encoding":
            raise KeyboardInterrupt

    message = r"Interrupted while preparing .*out; no files were left\. Run the same command again"
    with pytest.raises(TrainingInterrupted, match=message):
        prepare(data(StorybookSource(stories=3000)), Bytes(), tmp_path / "out", workers=1, progress=interrupt)
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import sys
from itertools import pairwise
from pathlib import Path
from fabella.config.data import Bytes, Packed, DataConfig, StorybookSource
from fabella.data.prepare import pipeline as preparing
from fabella.data.prepare.worker_pool import WorkerPool
from fabella.errors import TrainingInterrupted

started = WorkerPool.__init__
def print_pids(self, *arguments, **options):
    started(self, *arguments, **options)
    print("pids", *self.pids, flush=True)
WorkerPool.__init__ = print_pids
preparing.CHUNK_BYTES, preparing.CHUNKS_WITHOUT_WORKERS = 2000, 1
data = DataConfig(source=StorybookSource(stories=10**6), sequences=Packed(length=32, stride=32))
try:
    preparing.prepare(data, Bytes(), Path(sys.argv[1]), workers=2)
except TrainingInterrupted as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def test_ctrl_c_for_the_process_group_ends_workers_and_leaves_no_files(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of the group."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "out")]
    with started(command, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=REPOSITORY) as process:
        assert process.stdout
        _, *pids = process.stdout.readline().split()
        os.killpg(process.pid, signal.SIGINT)
        message = process.stdout.read()
        assert process.wait() == 130
    assert "no files were left" in message
    assert len(pids) == 2
    assert all(has_ended(int(pid)) for pid in pids)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("B1", cases=sum(KILLS.values()))
def test_killed_at_any_moment_and_repeated_it_writes_the_same_bytes(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("tokenizer", [Bytes(), BPE(vocab_size=400)], ids=lambda tokenizer: tokenizer.kind)
@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_the_loss_mask_of_conversations_has_exactly_the_answers(
    tokenizer: Bytes | BPE, template: str, tmp_path: Path
) -> None:
    config = data(chat_file(tmp_path / "chat.jsonl", 40))
    config = config.model_copy(update={"loss_on": "answers", "chat_template": template})
    dataset = prepare(config, tokenizer, tmp_path / "out", workers=1)
    split, mask = dataset.train, all_learned(dataset.train)
    for start, stop in pairwise(split.offsets.tolist()):
        ids, learned = split.read(start, stop), mask[start:stop]
        text, answer = (dataset.tokenizer.decode(part.tolist()) for part in (ids, ids[learned]))
        number = int(answer.split(":")[0].removeprefix("Tale "))
        assert answer == f"Tale {number}: {words(number + 1000, 8)}." * (1 + number % 2)
        assert f"A tale of {words(number, 3)}?" in text
        end = dataset.tokenizer.special_tokens["<|im_end|>"] if template == "chatml" else dataset.tokenizer.eos_id
        assert (ids[learned] == end).sum() == 1 + number % 2, "the end of each answer is learned"
    share = split.learned_tokens / split.tokens
    (note,) = [note for note in dataset.manifest["notes"] if note.startswith("loss on answers")]
    assert f"({100 * share:.1f} %) are learned" in note
    assert split.learned_tokens == mask.sum()


@pytest.mark.fault("I7", cases=2)
def test_documents_without_an_answer_are_reported(tmp_path: Path) -> None:
    source = chat_file(tmp_path / "chat.jsonl", 30)
    with (tmp_path / "chat.jsonl").open("a") as file:
        for number in range(30):
            file.write(json.dumps({"messages": [{"role": "user", "content": f"Only a question {number}?"}]}) + "\n")
    config = data(source).model_copy(update={"loss_on": "answers"})
    notes = prepare(config, Bytes(), tmp_path / "out", workers=1).manifest["notes"]
    assert any(re.fullmatch(r"\d+ training documents without an answer: not learned", note) for note in notes)
    stories = data().model_copy(update={"loss_on": "answers"})
    with pytest.raises(DataError, match=r"No sequence of the \w+ split has a token of an answer \(data\.loss_on = a"):
        prepare(stories, Bytes(), tmp_path / "none", workers=1)


@pytest.mark.fault("B2", cases=2)
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_loss_mask_is_found(damage: str, tmp_path: Path) -> None:
    config = data(chat_file(tmp_path / "chat.jsonl", 30)).model_copy(update={"loss_on": "answers"})
    prepare(config, Bytes(), tmp_path / "out", workers=1)
    path = tmp_path / "out" / "train" / "loss-mask-00000.npy"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:-9])
    with pytest.raises(PreparedDataError, match=r"train/loss-mask-00000\.npy"):
        open_dataset(tmp_path / "out", full=True)
