"""Tests that verify finds nothing in an intact run, and names every kind of damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fabella.errors import FabellaError
from fabella.run_config.files import validate_config
from fabella.runs.checkpoint import load, save
from fabella.runs.run_dir import FORMAT, RunDir
from fabella.runs.verify import Finding, verify
from fabella.storage import dump_manifest
from fabella.tokenizers.bytes import ByteTokenizer
from tests.runs import release, stub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    release.make(tmp_path / "run")
    return tmp_path / "run"


def replace_manifest(run: Path, **values: object) -> None:
    (run / "manifest.json").write_bytes(dump_manifest({**values, "format": FORMAT}))


def test_an_intact_run_has_no_findings(run: Path) -> None:
    assert verify(run) == []


def test_a_run_without_checkpoints_is_intact(tmp_path: Path) -> None:
    stub.folder(tmp_path).save_tokenizer(ByteTokenizer())
    assert verify(tmp_path) == [Finding("remark", "checkpoints", "no checkpoints yet.")]


def flip(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[len(data) // 2] ^= 4
        (run / name).write_bytes(data)

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).write_bytes(data)

    return change


def smaller_model(run: Path) -> None:
    values = {**stub.VALUES, "model": {**stub.VALUES["model"], "vocab_size": 100}}
    RunDir.open(run).with_config(validate_config(values))


DAMAGE: dict[str, tuple[Callable[[Path], None], list[tuple[str, str]]]] = {
    "config flipped": (flip("config.yaml"), [("run", "config.yaml was changed after it was written")]),
    "config missing": (remove("config.yaml"), [("run", "is not a run directory: it has no config.yaml")]),
    "manifest flipped": (flip("manifest.json"), [("run", "manifest.json: damaged")]),
    "tokenizer flipped": (
        flip("tokenizer/fabella.json"),
        [("tokenizer", "tokenizer/fabella.json: damaged: its sha256")],
    ),
    "tokenizer missing": (remove("tokenizer/fabella.json"), [("tokenizer", "tokenizer/fabella.json: missing")]),
    "tokenizer exchanged": (
        lambda run: replace_manifest(run, tokenizer="of another"),
        [("tokenizer", "not the tokenizer that the run started with")],
    ),
    "model flipped": (
        flip("checkpoints/step-00000005/model.safetensors"),
        [("step-00000005", "step-00000005/model.safetensors: damaged: its sha256 differs")],
    ),
    "checkpoint's manifest missing": (
        remove("checkpoints/step-00000010/manifest.json"),
        [("step-00000010", "no manifest, so the directory is incomplete")],
    ),
    "latest dangling": (
        write("latest", b"step-00000007\n"),
        [("latest", "points to step-00000007, which does not exist")],
    ),
    "latest missing": (remove("latest"), [("latest", "missing; the last checkpoint is step-00000010")]),
    "best nonsense": (write("best", b"../x"), [("best", "best is not the name of a checkpoint: '../x'")]),
    "metrics damaged": (write("metrics.jsonl", b"{}\n{]\n{}\n"), [("metrics.jsonl", "line 2: damaged")]),
    "samples damaged": (write("samples.jsonl", b"\xff\n"), [("samples.jsonl", "line 1: damaged")]),
    "model of another size": (
        smaller_model,
        [
            ("tokenizer", "it has 256 ids, but the model only 100 rows."),
            ("step-00000005", "embedding.weight is 256 x 2, not 100 x 2"),
            ("step-00000010", "embedding.weight is 256 x 2, not 100 x 2"),
        ],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_found_and_named(damage: str, run: Path) -> None:
    change, expected = DAMAGE[damage]
    change(run)
    findings = verify(run)
    assert [(finding.level, finding.where) for finding in findings] == [("damaged", where) for where, _ in expected]
    for finding, (_, problem) in zip(findings, expected, strict=True):
        assert problem in finding.problem


def test_a_missing_run_is_damaged(tmp_path: Path) -> None:
    (finding,) = verify(tmp_path / "gone")
    assert finding.level == "damaged"
    assert "No run directory at" in finding.problem


def test_harmless_leftovers_are_remarks(run: Path) -> None:
    folder = RunDir.open(run)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"torn')
    folder.set_pointer("latest", 5)
    (folder.checkpoints / ".step-00000015.partial-0123456789ab").mkdir()
    assert verify(run) == [
        Finding("remark", "latest", "points to step-00000005, but step-00000010 exists as well."),
        Finding("remark", "metrics.jsonl", "its last line is incomplete: its writer was killed. Resuming drops it."),
        Finding("remark", "step-00000015", "an incomplete file of a killed process. The next save removes it."),
    ]


def test_missing_data_is_a_remark(run: Path) -> None:
    replace_manifest(run, data={"fingerprint": "f", "folder": "../prepared"})
    (finding,) = verify(run)
    assert (finding.level, finding.where) == ("remark", "data")
    assert finding.problem.endswith("prepared does not exist; resuming needs it.")


class FakeDataset:
    fingerprint = "f"


def test_other_data_is_damage(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parent / "prepared").mkdir()
    monkeypatch.setattr("fabella.runs.verify.open_dataset", lambda path, full=False: FakeDataset())
    for fingerprint, levels in (("f", []), ("g", ["damaged"])):
        replace_manifest(run, data={"fingerprint": fingerprint, "folder": "../prepared"})
        assert [finding.level for finding in verify(run)] == levels


def test_prepared_data_is_verified_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path, *, full: bool) -> FakeDataset:
        assert full
        raise FabellaError("train/shard-00000.npy: damaged.")

    (tmp_path / "train").mkdir()
    monkeypatch.setattr("fabella.runs.verify.open_dataset", damaged)
    assert verify(tmp_path) == [Finding("damaged", "data", "train/shard-00000.npy: damaged.")]


def test_verifying_changes_nothing(run: Path) -> None:
    save(RunDir.open(run), 15, stub.checkpoint(15))
    before = stub.contents(run)
    verify(run)
    assert stub.contents(run) == before


RELEASED = sorted((Path(__file__).parent / "released").glob("v*"))


@pytest.mark.fault("A22", cases=len(RELEASED))
@pytest.mark.parametrize("path", RELEASED, ids=[path.name for path in RELEASED])
def test_runs_of_every_release_can_be_read(path: Path) -> None:
    assert verify(path) == []
    folder = RunDir.open(path)
    loaded = load(folder, "latest")
    assert (loaded.step, loaded.warnings) == (10, [])
    assert loaded.checkpoint.progress["tokens"] == 240
    assert loaded.checkpoint.state.scalars == {"step": 10, "loss_scale": 65536.0}
    assert load(folder, "best").step == 10


def test_there_is_a_released_version() -> None:
    assert RELEASED
