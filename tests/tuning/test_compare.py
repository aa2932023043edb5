"""Tests that families of equal size are trained the same way over several seeds, and that a comparison resumes."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as fabella
from fabella.runs.run_dir import RunDir
from tests.report.test_page import check_html
from tests.training import tiny

SETTINGS = [setting for setting in tiny.SETTINGS if not setting.startswith("model.") or "vocab_size" in setting]
COMMAND = [
    "compare-architectures", "storybook-1m", *SETTINGS, "model.context_length=32", "--steps", "4", "--size", "20000",
    "--layers", "2", "--tolerance", "0.05", "--device", "cpu",
]  # fmt: skip
OWN = Path(__file__).parents[2] / "src" / "fabella" / "models"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a comparison of two families with two seeds has ended."""
    directory = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(directory)
        assert (
            fabella(
                [*COMMAND, "--families", "mingru_plain,llama", "--seeds", "2", "--lr", "llama=4e-3,mingru_plain=2e-3"]
            )
            == 0
        )
    return directory


def compared(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert fabella([*COMMAND, *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


SAME = ["--families", "mingru_plain,llama", "--seeds", "2", "--lr", "llama=4e-3,mingru_plain=2e-3"]


def test_the_result_states_what_is_equal_what_is_not_and_its_uncertainty(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(directory)
    result = compared(SAME, capsys)
    first, second = result["compared"]
    assert {first["family"], second["family"]} == {"mingru_plain", "llama"}
    assert (result["match"], result["size"], result["tolerance"]) == ("non-embedding", 20_000, 0.05)
    for family in (first, second):
        assert abs(family["non_embedding_parameters"] / 20_000 - 1) <= 0.05
        assert family["parameters"] > family["non_embedding_parameters"]
        assert family["flops_per_token"] > 6 * family["non_embedding_parameters"]
        assert family["memory_bytes"] > 16 * family["parameters"], "weights, gradients and two moments"
        scores = [run["bits_per_byte"] for run in family["runs"]]
        interval = family["bits_per_byte"]
        assert interval["value"] == pytest.approx(sum(scores) / 2)
        half = 12.706 * abs(scores[0] - scores[1]) / 2  # t of one degree of freedom, deviation / √2
        assert interval["high"] - interval["value"] == pytest.approx(half, rel=1e-3)
    assert first["bits_per_byte"]["value"] <= second["bits_per_byte"]["value"]
    gap = [b["bits_per_byte"] - a["bits_per_byte"] for a, b in zip(first["runs"], second["runs"], strict=True)]
    assert second["gap_to_best"]["value"] == pytest.approx(sum(gap) / 2)
    assert {family["family"]: family["lr"] for family in (first, second)} == {"llama": 4e-3, "mingru_plain": 2e-3}
    assert len({family["tokens"] for family in (first, second)}) == 1


def test_report_csv_latex_and_plot_have_every_run(directory: Path) -> None:
    out = directory / "runs" / "architectures"
    check_html((out / "compare.html").read_text())
    rows = list(csv.DictReader((out / "compare.csv").read_text().splitlines()))
    assert {(row["family"], row["seed"]) for row in rows} == {(f, s) for f in ("llama", "mingru_plain") for s in "12"}
    assert all(math.isfinite(float(row["bits_per_byte"])) for row in rows)
    latex = (out / "compare.tex").read_text()
    assert r"mingru\_plain" in latex
    assert latex.count(r"$\pm$") >= 4
    assert "20,000 non-embedding parameters" in latex
    assert not re.search(r"(?<!\\)[_%&](?! )", latex.replace(" & ", ""))
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_trains_nothing_again_and_more_seeds_only_what_is_missing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(directory)
    files = {path: path.read_bytes() for path in directory.glob("runs/architectures/*/*/metrics.jsonl")}
    assert len(files) == 4
    before = compared(SAME, capsys)
    after = compared([word.replace("2", "3") if word == "2" else word for word in SAME], capsys)
    assert {path: path.read_bytes() for path in files} == files
    assert [len(family["runs"]) for family in after["compared"]] == [3, 3]
    old = {run["run_dir"]: run for family in before["compared"] for run in family["runs"]}
    new = {run["run_dir"]: run for family in after["compared"] for run in family["runs"]}
    assert {name: new[name] for name in old} == old


def test_other_settings_in_the_same_directory_are_refused_before_training(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(directory)
    assert fabella([*COMMAND, "--families", "llama", "--lr", "1e-3"]) == 2
    error = capsys.readouterr().err
    assert "has a run with optimizer.lr=0.004, not 0.001" in error
    assert "another --out" in error


def test_a_family_from_outside_is_compared_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mingru_plain.py", "mingru_plain_torch.py"):
        text = (OWN / name).read_text().replace("mingru_plain", "own").replace("fabella.models.own", ".own")
        text = text.replace(
            '    family: Literal["own"] = "own"  # pyright: ignore[reportIncompatibleVariableOverride]\n', ""
        )
        text = text.replace("return cls(", 'return cls(family="own",')
        (tmp_path / name.replace("mingru_plain", "own")).write_text(text)
    (first,) = compared(["--families", "./own_torch.py"], capsys)["compared"]
    (again,) = compared(["--families", "./own_torch.py"], capsys)["compared"]
    assert first == again
    assert first["family"] == "own_torch"
    assert math.isnan(float(first["bits_per_byte"]["low"] or "nan")), "one seed has no interval"


def test_equal_time_and_found_rates_are_kept_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fabella.training.setup.quickstart.MIN_STEPS", 20)
    words = ["--families", "llama", "--minutes", "0.0001", "--lr-find"]
    first = compared(words, capsys)
    assert first["learning_rates"] == "Learning rates: found by --lr-find."
    assert compared(words, capsys) == first
    assert RunDir.open(tmp_path / "runs" / "architectures" / "llama" / "seed-1").steps()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--match", "params"], "Unknown --match 'params'."),
        (["--families", "lama"], "Unknown family 'lama'. Did you mean 'llama'?"),
        (["--families", "llama", "--lr", "gpt2=1"], "--lr gpt2=1: gpt2, which is not compared."),
        (["--families", "llama,gpt2", "--lr", "gpt2=1"], "--lr gpt2=1: llama, which has no rate."),
        (["--families", "llama", "--lr", "fast"], "Cannot parse --lr fast."),
        (["--lr", "1e-3", "--lr-find"], "both set the learning rate"),
        (["--families", "llama", "--size", "10"], "No llama with 2 layers has 10 non-embedding parameters (± 5 %)."),
        (["--tolerance", "0"], "--tolerance 0 is not between 0 and 1."),
    ],
)
def test_a_wrong_option_is_refused_before_the_text_is_prepared(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fabella([*COMMAND, *words]) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
