"""Tests of fine-tuning as a user does it: a run that begins with the weights of another one."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fabella
from fabella.cli.main import run as fabella_command
from fabella.data.dataset import TokenizedDataset
from fabella.engine.build_model_torch import load_model
from fabella.errors import CheckpointError, ConfigError, FabellaError, StorageError, TokenizerError, TrainingInterrupted
from fabella.models.registry import family_names
from fabella.report import run_history
from fabella.report.page import page
from fabella.run_config.run import RunConfig
from fabella.runs import branch as branches
from fabella.runs.branch import InitialWeights, init_entry, load_initial_weights, with_new_ids
from fabella.runs.checkpoint import load
from fabella.runs.run_dir import INIT_FROM, RunDir
from fabella.training.fine_tuning.request import LR_FACTOR, resolve_training
from fabella.training.run import resume, start_run
from fabella.training.schedule import sequences_before
from fabella.training.setup.prepare_request import fit_request, prepare_request
from fabella.training.setup.request import TrainRequest
from tests.interop.tiny_exports import make_run
from tests.training import tiny

SETTINGS = (
    "model.layers=1", "model.dropout=0.0", "training.gradient_accumulation=[[0, 1]]", "samples.prompts=[]",
    "tokenizer={kind: bpe, vocab_size: 300}", "model.vocab_size=300", "checkpoint.keep_last=9",
)  # fmt: skip
STEPS = 12
WORDS = ("sea", "grey", "cold", "ship", "sail", "north", "salt", "iron", "fur", "rope", "the", "a", "and", "of", "is")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text that no story of the parent resembles."""
    random = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("text") / "sea.txt"
    path.write_text("\n\n".join(" ".join(random.choice(WORDS, 40)) + "." for _ in range(60)))
    return path


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a run of each engine, all on the same stories."""
    folder = tmp_path_factory.mktemp("parents")
    runs: dict[str, Path] = {}
    for engine in ("torch", "jax"):
        run = tiny.run(*SETTINGS, f"engine={engine}", f"name={engine}", steps=21)
        runs[engine] = start_run(run, folder / engine, tiny.prepared(folder, run)).path
    return runs


def started(
    parent: Path | str, text: Path, folder: Path, *settings: str, steps: int = STEPS, **options: Any
) -> tuple[Any, TokenizedDataset, InitialWeights | None]:
    """Return config, dataset and weights of a request."""
    request = TrainRequest(
        what=str(text), init_from=str(parent), steps=steps, overrides=("checkpoint.every_steps=4", *settings), **options
    )
    resolved, initial = resolve_training(request)
    dataset = prepare_request(resolved, folder / "prepared")
    return fit_request(resolved, dataset), dataset, initial


class StopAt:
    """A callback that ends the process at a step, without saving it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress: Any, result: Any) -> None:
        if progress.step == self.step:
            raise TrainingInterrupted(f"at step {progress.step}")


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_a_fine_tuned_run_begins_with_the_bits_of_its_parent_and_says_so(
    engine: str, parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    parent = RunDir.open(parents[engine])
    run, dataset, initial = started(parent.path, text, tmp_path, steps=2)
    out = start_run(run, tmp_path / "run", dataset, initial=initial).path
    tuned, best = RunDir.open(out), parent.read_pointer("best")
    assert best is not None
    before, after = (load(*pair).checkpoint.state for pair in ((parent, best), (tuned, 0)))
    assert all(np.array_equal(after.weights[name], array) for name, array in before.weights.items())
    assert not any(array.any() for array in after.optimizer_state.values())
    assert (tuned.run.model, tuned.run.engine) == (parent.run.model, engine)
    assert tuned.manifest["tokenizer"] == parent.manifest["tokenizer"]
    assert tuned.manifest[INIT_FROM]["model_sha256"] == branches.model_sha256(parent, best)
    rows = tiny.metrics(out)
    of_parent = next(row for row in tiny.metrics(parent.path) if (row["kind"], row["step"]) == ("validation", best))
    old_text = next(row for row in rows if (row["kind"], row["step"]) == ("validation_also", 0))
    assert (old_text["loss"], old_text["name"]) == (of_parent["loss"], engine)
    assert [row["step"] for row in rows if row["kind"] == "validation_also"] == [0, 2]


@pytest.mark.parametrize("engine", ["torch", "jax"])
@pytest.mark.parametrize("stop", [3, 7])
def test_killed_and_resumed_without_its_parent_a_fine_tuned_run_ends_with_the_same_bits(
    engine: str, stop: int, parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(parents[engine], parent)
    shutil.copytree(parents[engine].parent / "prepared", tmp_path / "prepared-of-parent")
    fingerprints: list[str] = []
    for name, stopped in (("straight", False), ("stopped", True)):
        run, dataset, initial = started(
            parents[engine], text, tmp_path, "validation.every_steps=3", "training.freeze=[embedding.*]"
        )
        if not stopped:
            fingerprints.append(_fingerprint(start_run(run, tmp_path / name, dataset, initial=initial).path))
            continue
        with pytest.raises(TrainingInterrupted):
            start_run(run, tmp_path / name, dataset, initial=initial, callbacks=[StopAt(stop)])
        parents[engine].rename(parents[engine].with_name("moved"))
        try:
            fingerprints.append(_fingerprint(resume(tmp_path / name).path))
        finally:
            parents[engine].with_name("moved").rename(parents[engine])
    assert fingerprints[0] == fingerprints[1]


def _fingerprint(out: Path) -> str:
    (out / "samples.jsonl").touch()
    return tiny.fingerprint(out)


def test_fine_tuning_learns_faster_than_from_scratch(parents: dict[str, Path], text: Path, tmp_path: Path) -> None:
    run, dataset, initial = started(parents["torch"], text, tmp_path, "optimizer.lr=4e-3", steps=20)
    tuned = start_run(run, tmp_path / "tuned", dataset, initial=initial)
    scratch = start_run(run, tmp_path / "scratch", dataset)
    assert tuned.score.loss < scratch.score.loss
    assert list(tuned.other_validation_losses) == ["torch"]
    assert RunDir.open(scratch.path).manifest.get(INIT_FROM) is None


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return conversations, which the template chatml writes with two special tokens."""
    random = np.random.default_rng(6)
    path = tmp_path_factory.mktemp("text") / "chat.jsonl"
    pairs = [(" ".join(random.choice(WORDS, 4)), " ".join(random.choice(WORDS, 12))) for _ in range(60)]
    rows = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_the_vocabulary_grows_with_the_special_tokens_of_a_chat_and_a_resumed_run_has_the_same_bits(
    engine: str, parents: dict[str, Path], chat: Path, tmp_path: Path
) -> None:
    settings = ("data.chat_template=chatml", "data.loss_on=answers", "validation.every_steps=3")
    fingerprints: list[str] = []
    for name, stopped in (("straight", False), ("stopped", True)):
        run, dataset, initial = started(parents[engine], chat, tmp_path, *settings)
        assert initial is not None
        assert (run.model.vocab_size, dataset.tokenizer.vocab_size, initial.run.model.vocab_size) == (302, 302, 300)
        if stopped:
            with pytest.raises(TrainingInterrupted):
                start_run(run, tmp_path / name, dataset, initial=initial, callbacks=[StopAt(7)])
            result = resume(tmp_path / name)
        else:
            result = start_run(run, tmp_path / name, dataset, initial=initial)
        assert list(result.other_validation_losses) == [engine]  # stories, whose tokenizer lacks the two
        fingerprints.append(_fingerprint(result.path))
    assert fingerprints[0] == fingerprints[1]
    tuned = RunDir.open(tmp_path / "straight")
    assert tuned.manifest[INIT_FROM]["added_tokens"] == ["<|im_start|>", "<|im_end|>"]
    before, after = initial.weights, load(tuned, 0).checkpoint.state.weights
    grown = [key for key, array in after.items() if array.shape != before[key].shape]
    assert "embedding.weight" in grown
    for key, array in before.items():
        assert np.array_equal(after[key][: len(array)], array)
        if key in grown:
            assert np.allclose(after[key][300:], array.mean(axis=0), atol=1e-6)
    again, _, _ = started(tuned.path, chat, tmp_path, "data.loss_on=answers", steps=2)
    assert again.model.vocab_size == 302


def test_a_dataset_with_more_special_tokens_is_taken(parents: dict[str, Path], chat: Path, tmp_path: Path) -> None:
    _, dataset, _ = started(parents["torch"], chat, tmp_path, "data.chat_template=chatml")
    request = TrainRequest(what=str(dataset.path), init_from=str(parents["torch"]), steps=2)
    resolved, initial = resolve_training(request)
    run = fit_request(resolved, dataset)
    assert run.model.vocab_size == 302
    result = start_run(run, tmp_path / "run", dataset, initial=initial)
    assert result.progress.step == 2


@pytest.mark.parametrize("family", family_names())
def test_every_parameter_with_a_row_for_each_id_grows(family: str, tmp_path: Path) -> None:
    parent = make_run(tmp_path / "parent", family)  # three rows more than its tokenizer has ids
    initial = load_initial_weights(parent)
    ids = initial.tokenizer.vocab_size
    for more, rows in ((2, 3), (5, 5)):
        config = initial.run.model.model_copy(update={"vocab_size": ids + rows})
        weights = with_new_ids(initial, config, ids + more)
        assert {name: a.shape for name, a in weights.items()} == {n: p.shape for n, p in config.parameters().items()}
        model: Any = load_model(config, weights, "cpu")
        logits = model(torch.arange(ids, ids + more)[None])
        assert torch.allclose(logits[..., ids : ids + 1], logits[..., ids : ids + more], atol=1e-5)
        old: Any = load_model(initial.run.model, initial.weights, "cpu")
        tokens = torch.arange(20)[None]
        assert torch.allclose(model(tokens)[..., :ids], old(tokens)[..., :ids], atol=1e-5)
    assert with_new_ids(initial, initial.run.model, ids) is initial.weights


@pytest.mark.parametrize("settings", [("data.loss_on=answers",), ("data.mode={kind: streaming}",)])
def test_the_weights_of_a_reshuffled_run_learn_a_text_of_any_form(settings: tuple[str, ...], chat: Path) -> None:
    parent = Path("storyteller")
    assert load_initial_weights(parent).run.data.sequences.reshuffle
    request = TrainRequest(what=str(chat), init_from=str(parent), overrides=("data.chat_template=plain", *settings))
    resolved, _ = resolve_training(request)
    assert not resolved.run.data.sequences.reshuffle


def test_a_fine_tuned_run_can_be_fine_tuned_again(parents: dict[str, Path], text: Path, tmp_path: Path) -> None:
    run, dataset, initial = started(parents["torch"], text, tmp_path, steps=2)
    first = start_run(run, tmp_path / "first", dataset, initial=initial).path
    run, dataset, initial = started(first, text, tmp_path, "optimizer.kind=muon", steps=2)
    assert [Path(path).name for path in run.validation.also] == ["torch", "first"]
    second = start_run(run, tmp_path / "second", dataset, initial=initial)
    assert list(second.other_validation_losses) == ["torch", "first"]


def test_a_checkpoint_of_a_run_can_be_named(parents: dict[str, Path]) -> None:
    run = RunDir.open(parents["torch"])
    path = run.checkpoints / "step-00000005"
    initial = load_initial_weights(path)
    weights = load(run, 5).checkpoint.state.weights
    assert initial.step == 5
    assert all(np.array_equal(initial.weights[name], array) for name, array in weights.items())


def test_the_suggested_config_is_that_of_the_parent_with_a_warm_up(
    parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    parent = RunDir.open(parents["torch"]).run
    run, _, _ = started(parents["torch"], text, tmp_path, steps=0)
    assert run.optimizer.lr == pytest.approx(LR_FACTOR * parent.optimizer.lr)
    assert run.optimizer.kind == parent.optimizer.kind
    assert run.name == "sea"
    assert run.training.micro_batch_size == parent.training.micro_batch_size
    assert run.optimizer.schedule[0].end == 1.0


@pytest.mark.parametrize(("size", "limit"), [(0.5, ", the fewest"), (3, ""), (60, ", the most")])
def test_the_reason_for_a_suggested_length_is_true_and_a_given_length_has_none(
    size: float, limit: str, parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    longer = tmp_path / "longer.txt"
    stories = text.read_text()
    longer.write_text(stories[: int(len(stories) * size)] if size < 1 else stories * int(size))
    request = TrainRequest(what=str(longer), init_from=str(parents["torch"]))
    resolved, _ = resolve_training(request)
    (reason,) = [reason for reason in resolved.reasons if "epochs" in reason]
    steps = resolved.run.training.length.model_dump()["max_steps"]
    assert reason.startswith(f"{steps:,} steps{limit}: about ")
    epochs = float(reason.partition("about ")[2].split(" ")[0].replace(",", ""))
    run = fit_request(resolved, prepare_request(resolved, tmp_path / "prepared"))
    dataset = prepare_request(resolved, tmp_path / "prepared")
    assert epochs == pytest.approx(_epochs(run, dataset, steps), rel=0.15)
    given, _ = resolve_training(dataclasses.replace(request, steps=steps))
    assert not [reason for reason in given.reasons if "epochs" in reason]


def _epochs(run: RunConfig, dataset: TokenizedDataset, steps: int) -> float:
    return sequences_before(run.training, steps) * run.data.sequences.length / dataset.train.tokens


def test_the_included_model_is_named_as_commands_take_it(text: Path, tmp_path: Path) -> None:
    resolved, initial = resolve_training(TrainRequest(what=str(text), init_from="storyteller", steps=1))
    assert initial is not None
    assert "Weights, model and tokenizer of storyteller, step " in resolved.reasons[0]
    assert init_entry(initial, initial.tokenizer, tmp_path)[INIT_FROM]["run"] == "storyteller"


@pytest.mark.parametrize(
    ("settings", "error", "problem"),
    [
        (("model.layers=2",), ConfigError, "do not fit: model.layers = 2, not 1"),
        (("model.heads=1",), ConfigError, "do not fit: model.heads = 1, not 2"),
        (("model.vocab_size=400",), ConfigError, "do not fit: model.vocab_size = 400, not 300"),
        (("model.family=gpt2",), ConfigError, "of a model of family 'llama', not 'gpt2'"),
        (("tokenizer=bytes",), TokenizerError, "is bpe with 300 tokens, not bytes with 256 tokens"),
    ],
)
def test_a_model_or_tokenizer_that_does_not_fit_is_refused(
    settings: tuple[str, ...],
    error: type[FabellaError],
    problem: str,
    parents: dict[str, Path],
    text: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=problem) as raised:
        started(parents["torch"], text, tmp_path, *settings)
    assert raised.value.hint


def test_dropout_and_a_longer_context_of_rotary_embeddings_are_accepted(
    parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    run, _, _ = started(
        parents["torch"], text, tmp_path, "model.dropout=0.2", "model.context_length=64", "data.sequences.length=64"
    )
    assert (run.model.context_length, run.data.sequences.length) == (64, 64)


def test_a_preset_or_config_must_have_the_same_model_and_gets_the_tokenizer(
    parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"do not fit: model\.vocab_size = 2048, not 300"):
        resolve_training(TrainRequest(what="storybook-1m", data=str(text), init_from=str(parents["torch"])))
    config = tmp_path / "mine.yaml"
    config.write_text((parents["torch"] / "config.yaml").read_text())
    request = TrainRequest(what=str(config), data=str(text), init_from=str(parents["torch"]))
    resolved, initial = resolve_training(request)
    assert initial is not None
    assert prepare_request(resolved, tmp_path / "prepared").tokenizer.fingerprint == initial.tokenizer.fingerprint
    other = dataclasses.replace(request, overrides=("tokenizer.vocab_size=299",))
    with pytest.raises(TokenizerError, match="is bpe with 300 tokens, not bpe with 299 tokens"):
        resolve_training(other)


def test_a_dataset_of_another_tokenizer_is_refused_and_one_of_the_same_is_taken(
    parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    other = tiny.prepared(
        tmp_path / "other", tiny.run("tokenizer={kind: bpe, vocab_size: 290}", "model.vocab_size=300")
    )
    for what, data in ((str(other.path), ""), ("", str(other.path))):
        with pytest.raises(TokenizerError, match="was prepared with another tokenizer"):
            resolve_training(TrainRequest(init_from=str(parents["torch"]), what=what, data=data))
    _, dataset, _ = started(parents["torch"], text, tmp_path)
    resolved, _ = resolve_training(TrainRequest(what=str(dataset.path), init_from=str(parents["torch"])))
    assert resolved.prepared is not None
    assert resolved.prepared.fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere", "No run directory at"),
        ("checkpoints/step-00000099", "has no step-00000099"),
        ("checkpoints/step-00000005/model.safetensors", "is a file of a checkpoint"),
        ("checkpoints", "not a run directory"),
        ("tokenizer", "is a tokenizer, not a run directory"),
        ("config.yaml", "is the config of a run, not its directory"),
    ],
)
def test_what_is_no_run_or_checkpoint_is_refused(path: str, problem: str, parents: dict[str, Path], text: Path) -> None:
    with pytest.raises(CheckpointError, match=problem) as raised:
        resolve_training(TrainRequest(what=str(text), init_from=str(parents["torch"] / path)))
    assert raised.value.hint


def test_a_model_of_another_format_must_be_imported(text: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    for name in ("hf", "model.gguf"):
        with pytest.raises(CheckpointError, match="is a model of another format, not a run") as raised:
            resolve_training(TrainRequest(what=str(text), init_from=str(tmp_path / name)))
        assert f"fabella import {tmp_path / name} --out runs/" in raised.value.hint


def test_a_damaged_checkpoint_is_refused_and_no_other_one_is_taken(
    parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    parent = tmp_path / "torch"
    shutil.copytree(parents["torch"], parent)
    best = RunDir.open(parent).read_pointer("best")
    weights = parent / "checkpoints" / f"step-{best:08d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x99")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        resolve_training(TrainRequest(what=str(text), init_from=str(parent)))


def test_a_run_that_lost_all_checkpoints_does_not_start_again_with_other_weights(
    parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    run, dataset, initial = started(parents["torch"], text, tmp_path, steps=2)
    out = start_run(run, tmp_path / "run", dataset, initial=initial).path
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint, not even that of step 0"):
        resume(out)


def test_an_interrupted_creation_is_made_again(
    parents: dict[str, Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, dataset, initial = started(parents["torch"], text, tmp_path, steps=2)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fabella.runs.run_dir._signed", killed)
        with pytest.raises(KeyboardInterrupt):
            start_run(run, tmp_path / "run", dataset, initial=initial)
    assert (tmp_path / "run" / "checkpoints" / "step-00000000").is_dir()
    with pytest.raises(CheckpointError):
        RunDir.open(tmp_path / "run")
    assert start_run(run, tmp_path / "run", dataset, initial=initial).progress.step == 2


def test_without_the_old_text_a_run_resumes_to_the_same_weights_and_reports_it(
    parents: dict[str, Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny.prepared(tmp_path / "other", tiny.run(*SETTINGS, "data.source.seed=1")).path
    weights: list[bytes] = []
    for removed in (False, True):
        also = f"validation.also=['{other}']"
        run, dataset, initial = started(parents["torch"], text, tmp_path, also)
        out = tmp_path / f"run-{removed}"
        with pytest.raises(TrainingInterrupted):
            start_run(run, out, dataset, initial=initial, callbacks=[StopAt(5)])
        if removed:
            shutil.rmtree(other)
        resume(out)
        weights.append((out / "checkpoints" / "step-00000012" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert "is not scored any more" in capsys.readouterr().err


def test_another_tokenizer_of_the_old_text_is_refused_before_anything_is_written(
    parents: dict[str, Path], text: Path, tmp_path: Path
) -> None:
    other = tiny.prepared(tmp_path / "other", tiny.run()).path
    run, dataset, initial = started(parents["torch"], text, tmp_path, f"validation.also=['{other}']")
    with pytest.raises(ConfigError, match="has another tokenizer than this run"):
        start_run(run, tmp_path / "run", dataset, initial=initial)
    assert not (tmp_path / "run").exists()


def test_the_command_fine_tunes_resumes_verifies_and_reports(
    parents: dict[str, Path],
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", str(text), "--init-from", str(parents["torch"]), "--steps", "2", "--out", "tuned"]
    assert fabella_command([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["other_validation"]["torch"]["first"]["step"] == 0
    assert fabella_command([*command, "--resume"]) == 0
    assert fabella_command(command) == StorageError.exit_code
    assert fabella_command(["train", "--data", str(text), "--init-from", str(parents["jax"]), "--out", "tuned",
                            "--resume"]) == ConfigError.exit_code  # fmt: skip
    assert "began with those of torch, not with the weights of" in capsys.readouterr().err
    assert fabella_command(["verify", "tuned"]) == 0
    digest = RunDir.open(tmp_path / "tuned").manifest[INIT_FROM]["model_sha256"][:12]
    assert f"the run began with the weights of torch, step {load_initial_weights(parents['torch']).step}" in (
        capsys.readouterr().out
    )
    html = page([run_history.read(tmp_path / "tuned")])
    assert f"sha256 {digest}" in html
    assert "validation on torch" in html


@pytest.mark.parametrize(
    "words",
    [
        ["resume", "RUN", "--init-from", "RUN"],
        ["tune", "storybook-1m", "--init-from", "RUN"],
        ["compare-architectures", "storybook-1m", "--init-from", "RUN"],
        ["quickstart", "--init-from", "RUN"],
        ["train", "storybook-1m", "init_from=RUN"],
        ["train", "--init-from", "RUN"],
        ["finetune", "RUN"],
    ],
    ids=" ".join,
)
def test_other_ways_to_ask_for_it_lead_to_the_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella_command(words) == 2
    assert "fabella train TEXT --init-from RUN" in capsys.readouterr().err


def test_in_python(parents: dict[str, Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fabella.train(text, init_from=parents["torch"], steps=2, out="tuned")
    assert [step for step, _ in run.validation_losses] == [0, 2]
    assert RunDir.open(tmp_path / "tuned").manifest[INIT_FROM]["run"] == "torch"
    assert fabella.load("tuned").generate("the sea", max_tokens=3)


def test_a_branch_of_a_fine_tuned_run_still_names_the_first_weights(
    parents: dict[str, Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fabella.train(text, init_from=parents["torch"], steps=2, out="tuned")
    fabella.resume("tuned", checkpoint=0, out="deep/down/branch", steps=3)
    origin = RunDir.open(tmp_path / "deep/down/branch").manifest[INIT_FROM]
    assert (tmp_path / "deep/down/branch" / origin["path"]).resolve() == parents["torch"].resolve()
