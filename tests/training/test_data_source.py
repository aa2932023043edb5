"""Tests that a streaming run, stopped or killed and resumed, ends with the bits of an uninterrupted run."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.errors import CheckpointError, ConfigError, TextError, TrainingInterrupted
from fabella.run_config.run import RunConfig
from fabella.runs import verify
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import RunDir
from fabella.text.chat.template import named
from fabella.tokenizers import loading
from fabella.training import api
from fabella.training import run as training_run
from fabella.training.run import resume, start_run
from fabella.training.setup.request import TrainRequest, prepare_data, resolve_request
from tests.data.samples import chat_file, lines, words
from tests.training import tiny

STEPS, STORIES = 24, 4
STREAMING = (
    "data.mode={kind: streaming, document_shuffle_buffer: 6, sequence_shuffle_buffer: 5, tokenizer_sample_bytes: 20000}"
)


def mixture(folder: Path) -> str:
    text = lines(folder / "mine.txt", [f"Tale {number}. {words(number, 30)}" for number in range(60)])
    parts = [
        {"weight": 1.0, "source": text.model_dump(mode="json")},
        {"weight": 1.0, "source": {"kind": "storybook", "stories": STORIES}},
    ]
    return f"data.source={json.dumps({'kind': 'mixture', 'parts': parts})}"


def run(folder: Path, *overrides: str) -> RunConfig:
    return tiny.run(STREAMING, mixture(folder), *overrides, steps=STEPS)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def sample_dataset(texts: Path) -> TokenizedDataset:
    return prepare_data(run(texts), texts / "prepared", workers=1)


@pytest.fixture(scope="module")
def finished(texts: Path, sample_dataset: TokenizedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train an uninterrupted run with changing accumulation, dropout, and a mixture over several epochs."""
    return start_run(run(texts), tmp_path_factory.mktemp("runs") / "straight", sample_dataset).path


class StopAt:
    """A tracker that stops the run at the row of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, row: Any) -> None:
        if row["kind"] == "train" and row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def stopped_run(texts: Path, out: Path, sample_dataset: TokenizedDataset, *steps: int) -> Path:
    with pytest.raises(TrainingInterrupted):
        start_run(run(texts), out, sample_dataset, trackers=[StopAt(steps[0])])
    for step in steps[1:]:
        with pytest.raises(TrainingInterrupted):
            resume(out, trackers=[StopAt(step)])
    return out


def test_a_source_reaches_its_third_epoch(finished: Path) -> None:
    last = json.loads(str(load(RunDir.open(finished), "latest").checkpoint.progress["stream"]))
    (_, storybook) = last["source"]["source"]["parts"]
    assert (storybook["block"], storybook["given"] > 2 * STORIES) == (0, True)


@pytest.mark.fault("B10", cases=4)
@pytest.mark.parametrize("steps", [(3,), (12,), (21,), (6, 9, 12, 18)], ids=str)
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(
    steps: tuple[int, ...], texts: Path, sample_dataset: TokenizedDataset, finished: Path, tmp_path: Path
) -> None:
    out = stopped_run(texts, tmp_path / "run", sample_dataset, *steps)
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(finished)


@pytest.mark.fault("A11", cases=3)
@pytest.mark.parametrize("step", [2, 8, 20])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(
    step: int, texts: Path, sample_dataset: TokenizedDataset, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    pid = os.fork()
    if pid == 0:
        try:
            start_run(
                run(texts),
                out,
                sample_dataset,
                trackers=[lambda row: os.kill(os.getpid(), signal.SIGKILL) if row["step"] >= step else None],
            )
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(finished)


@pytest.mark.fault("A12", cases=2)
@pytest.mark.parametrize("part", ["given", "all"])
def test_a_resume_without_the_position_of_the_stream_is_detected(
    part: str,
    texts: Path,
    sample_dataset: TokenizedDataset,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = stopped_run(texts, tmp_path / "run", sample_dataset, 12)
    restore = training_run.restore

    def restore_without_position(of: Any) -> Any:
        progress, saved = restore(of)
        stream = json.dumps({**json.loads(progress.stream), part: 0}) if part != "all" else ""
        return dataclasses.replace(progress, stream=stream), saved

    monkeypatch.setattr(training_run, "restore", restore_without_position)
    if part == "all":
        with pytest.raises(CheckpointError, match=r"The checkpoint has no stream state, but \d+ sequences were used"):
            resume(out)
    else:
        resume(out)
        assert tiny.fingerprint(out) != tiny.fingerprint(finished)


@pytest.mark.fault("B14", cases=1)
def test_a_changed_text_is_rejected(tmp_path: Path) -> None:
    config = run(tmp_path)
    out = stopped_run(tmp_path, tmp_path / "run", prepare_data(config, tmp_path / "prepared", workers=1), 6)
    text = tmp_path / "mine.txt"
    text.write_text(text.read_text().replace("Tale 59.", "Tale x."))
    with pytest.raises(ConfigError, match=r"names text that has changed: .* Resume with the original text"):
        resume(out)
    text.write_text(text.read_text().replace("Tale x.", "Tale 59."))
    resume(out)


def test_a_moved_text_is_found_at_its_new_path(tmp_path: Path) -> None:
    text = lines(tmp_path / "mine.txt", [f"Tale {number}. {words(number, 30)}" for number in range(60)])
    config = tiny.run(STREAMING, f"data.source={text.model_dump_json()}", steps=STEPS)
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        start_run(config, out, prepare_data(config, tmp_path / "prepared", workers=1), trackers=[StopAt(6)])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.txt").rename(tmp_path / "elsewhere" / "mine.txt")
    with pytest.raises(TextError, match="There is no file"):
        api.resume(out)
    api.resume(out, settings={"data.source.paths": [str(tmp_path / "elsewhere" / "mine.txt")]})


def test_a_prepared_text_is_not_streamed(tmp_path: Path) -> None:
    prepared = tiny.prepared(tmp_path)
    with pytest.raises(
        ConfigError, match=r"Cannot stream .*: it is a pretokenized dataset \(data\.mode\.kind = streaming\)"
    ):
        resolve_request(TrainRequest(what="storybook-1m", data=str(prepared.path), overrides=[STREAMING]))


def test_the_head_of_a_stream_is_streamed_again(texts: Path, sample_dataset: TokenizedDataset) -> None:
    request = resolve_request(TrainRequest(what="storybook-1m", data=str(sample_dataset.path)))
    assert request.run.data.mode == run(texts).data.mode


def test_paths_of_a_streaming_run_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("One fox.\n\nTwo foxes.\n")
    monkeypatch.chdir(tmp_path)
    request = resolve_request(
        TrainRequest(what="storybook-1m", data="mine.txt", validation="mine.txt", overrides=[STREAMING])
    )
    data = request.run.data.model_dump(mode="json")
    assert data["source"]["paths"] == data["validation"]["source"]["paths"] == [str(tmp_path / "mine.txt")]


def test_a_length_in_epochs_is_refused_for_a_stream() -> None:
    epochs = r"training\.length\.epochs .* data\.mode\.kind = streaming"
    hint = r"training\.length\.max_steps \(--steps\)"
    with pytest.raises(ConfigError, match=f"{epochs} .* set {hint}"):
        resolve_request(TrainRequest(what="tinystories-1m", overrides=[STREAMING]))


CHAT = [
    "data.loss_on=answers", "data.chat_template=chatml", "model.vocab_size=258", "data.validation.fraction=0.2",
    "model.context_length=96", "training.gradient_accumulation=[[0, 2]]",
]  # fmt: skip


@pytest.mark.fault("A11", cases=8)
@pytest.mark.parametrize("sequences", ["packed, stride: 96", "padded"])
@pytest.mark.parametrize("mode", ["pretokenized", "streaming"])
@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_run_that_learns_answers_ends_with_the_same_bits_after_a_kill(
    engine: str, mode: str, sequences: str, tmp_path: Path
) -> None:
    if engine == "jax":
        pytest.importorskip("jax")
    source = f"data.source={chat_file(tmp_path / 'chat.jsonl', 60).model_dump_json()}"
    cut = f"data.sequences={{kind: {sequences}, length: 96}}"
    streaming = [STREAMING] if mode == "streaming" else []
    config = tiny.run(*CHAT, source, cut, *streaming, f"engine={engine}", "model.dropout=0", steps=12)
    dataset = prepare_data(config, tmp_path / "prepared", workers=1)
    straight = start_run(config, tmp_path / "straight", dataset).path
    out = tmp_path / "run"
    with pytest.raises(TrainingInterrupted):
        start_run(config, out, dataset, trackers=[StopAt(6)])
    resume(out)
    assert tiny.fingerprint(out) == tiny.fingerprint(straight)
    assert not [finding for finding in verify.verify(out) if finding.level == "damaged"]
    assert loading.load(out / "tokenizer").chat_template == named("chatml")
