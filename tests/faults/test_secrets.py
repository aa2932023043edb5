"""Tests that secrets of the environment appear in no output and in no file. Row E12 of the fault matrix."""

from pathlib import Path

import pytest

from fabella.cli.main import run

NAMES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "FABELLA_API_KEY",
    "GITHUB_TOKEN", "PGPASSWORD",
)  # fmt: skip
STORY = "Once upon a time there was a fox. The fox was glad.\n\n"
TRAIN = [
    "train", "stories.txt", "--steps", "3", "training.micro_batch_size=2", "model.dim=16", "model.heads=2",
    "model.kv_heads=2", "data.sequences={kind: packed, length: 16, stride: 16}", "tracking.tensorboard=true",
]  # fmt: skip
COMMANDS = {
    "train": (0, [*TRAIN]),
    "resume": (0, ["resume", "runs/stories", "--steps", "4"]),
    "generate": (0, ["generate", "runs/stories", "Once", "--max-tokens", "4"]),
    "evaluate": (0, ["evaluate", "runs/stories", "--num-samples", "1", "--max-tokens", "8"]),
    "perplexity": (0, ["perplexity", "runs/stories", "Once upon a time"]),
    "report": (0, ["report", "runs/stories"]),
    "verify": (0, ["verify", "runs/stories", "--json"]),
    "plan": (0, ["plan", "runs/stories", "--no-measure", "--json"]),
    "unknown setting": (2, ["train", "stories.txt", "optimizer.lrr=1", "--debug"]),
    "missing text": (3, ["train", "missing.txt", "--debug"]),
    "existing run": (4, [*TRAIN, "--debug"]),
    "missing run": (4, ["generate", "runs/missing", "Once", "--debug"]),
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Set each variable to a secret of its own and return the secrets."""
    values = {name: f"secret-of-{name.lower()}-7f3a" for name in NAMES}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return list(values.values())


@pytest.mark.fault("E12", cases=len(NAMES) * len(COMMANDS))
def test_no_output_and_no_file_contains_a_secret(
    secrets: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories.txt").write_text("".join(f"{STORY.strip()} {number}\n\n" for number in range(60)))
    for name, (code, command) in COMMANDS.items():
        arguments = [argument for argument in command if argument != "--debug"]
        assert run(arguments, debug="--debug" in command) == code, name
        out, err = capfd.readouterr()
        assert out or err, name
        assert not [secret for secret in secrets if secret in out + err], name
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
