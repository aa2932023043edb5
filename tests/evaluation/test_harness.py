"""Tests of standard tasks: responses to lm-evaluation-harness, tasks over local files, and errors.

The harness brings forty packages (300 MB: pandas, scikit-learn, nltk …), too many for `make test`. Tests that
need it are skipped without it. Fabella's responses are always tested.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import UsageError
from fabella.evaluation.harness import FILE, generate_until, score
from fabella.evaluation.scoring.predictions_torch import predictions
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from tests.generation import tiny_run

TASKS = {
    "endings": """\
output_type: multiple_choice
doc_to_text: "{{before}}"
doc_to_choice: "{{endings}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "whole": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{before}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
""",
    "answers": """\
output_type: generate_until
doc_to_text: "{{before}}"
doc_to_target: "{{endings[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 5}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}
ROWS = [
    {"before": "Tom had a dog. It", "endings": ["ran.", "is the capital of France."]},
    {"before": "The cat sat on", "endings": ["the mat.", "quantum."]},
    {"before": "Zoë laughed, and", "endings": ["so did Tom.", "x = 3."]},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def generator(folder: Path) -> TextGenerator:
    return load(folder, device="cpu")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tasks over one local file, without network access or files elsewhere."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in TASKS.items():
        data = (
            f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\ntest_split: test\n"
        )
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{data}{text}")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path


def scored(generator: TextGenerator, *pairs: tuple[str, str]) -> list[tuple[float, bool]]:
    return score(generator, partial(predictions, generator.model), pairs)


# ---------------------------------------------------------------- responses


def test_the_score_of_a_text_equals_its_perplexity(generator: TextGenerator) -> None:
    text = "Once upon a time there was a dog, and another, and a third."
    assert scored(generator, ("", text))[0][0] == pytest.approx(-generator.perplexity(text).nats.sum(), rel=1e-5)


def test_scores_of_parts_add_up_to_the_score_of_the_text(generator: TextGenerator) -> None:
    (whole, _), (first, _), (then, _) = scored(generator, ("", "Tom ran home."), ("", "Tom ran"), ("Tom ran", " home."))
    assert first + then == pytest.approx(whole, rel=1e-5)


def test_greedy_completions_are_scored_as_greedy(generator: TextGenerator) -> None:
    before = "Tom had"
    expected = generator.generate(before, SamplingParams(temperature=0.0, top_p=1.0), max_tokens=6)[0]
    completions = generate_until(generator, [(before, {"max_gen_toks": 6})])
    assert completions == [expected.completion]
    ids = generator.tokenizer.encode(before + expected.completion)
    if generator.tokenizer.decode(ids.tolist()) == before + expected.completion and "\ufffd" not in expected.completion:
        assert scored(generator, (before, expected.completion))[0][1]
    assert not scored(generator, (before, "\x00\x01\x02\x03"))[0][1]


def test_completions_end_before_a_stop_sequence_and_keep_their_order(generator: TextGenerator) -> None:
    whole = generate_until(generator, [("A", {"max_gen_toks": 12}), ("Bb", {"max_gen_toks": 12})])
    stop = whole[0][3]
    cut = generate_until(generator, [("Bb", {"max_gen_toks": 12}), ("A", {"max_gen_toks": 12, "until": ["", stop]})])
    assert cut == [whole[1], whole[0].partition(stop)[0]]
    assert generate_until(generator, [("A", {"max_gen_toks": 12, "until": stop})]) == [whole[0].partition(stop)[0]]


def test_equal_sampled_requests_get_different_but_reproducible_completions(generator: TextGenerator) -> None:
    settings = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 16}
    twice = generate_until(generator, [("Tom", settings)] * 2)
    assert twice[0] != twice[1]
    assert generate_until(generator, [("Tom", settings)] * 2) == twice


def test_an_unknown_generation_setting_is_an_error(generator: TextGenerator) -> None:
    with pytest.raises(UsageError, match="unknown generation setting num_beams"):
        generate_until(generator, [("Tom", {"num_beams": 4})])


def test_a_missing_extra_is_an_error_with_the_install_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert fabella(["lm-eval", str(folder), "blimp"]) == 2
    assert capsys.readouterr().err == (
        "fabella: Standard tasks need lm-evaluation-harness, which is not installed. pip install 'fabella[eval]'\n"
    )


# ---------------------------------------------------------------- the harness itself


def run_tasks(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed: 300 MB, not part of `make test`")
    code = fabella(["lm-eval", *map(str, words)])
    return code, *capsys.readouterr()


@pytest.mark.filterwarnings("default")  # warnings of the harness and its packages
def test_tasks_over_local_files_equal_fabellas_own_scores(
    folder: Path, generator: TextGenerator, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_tasks(capsys, folder, *TASKS, "--include-path", tasks, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads((folder / FILE).read_text())
    values = {(row["task"], row["metric"]): row["value"] for row in result["metrics"]}
    assert {row["num_samples"] for row in result["metrics"]} == {len(ROWS)}
    correct = [
        (scores := scored(generator, *((row["before"], f" {end}") for end in row["endings"])))[0][0] > scores[1][0]
        for row in ROWS
    ]
    assert values["endings", "acc"] == pytest.approx(sum(correct) / len(ROWS))
    nats = sum(scored(generator, ("", row["before"]))[0][0] for row in ROWS)
    size = sum(len(row["before"].encode()) for row in ROWS)
    assert values["whole", "bits_per_byte"] == pytest.approx(-nats / size / math.log(2), rel=1e-5)
    assert ("answers", "exact_match") in values


@pytest.mark.filterwarnings("default")
def test_a_yaml_file_is_a_task_and_a_limit_is_printed(
    folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_tasks(capsys, folder, tasks / "endings.yaml", "--limit", "2", "--num-fewshot", "1")
    assert code == 0, err
    row = next(line.split() for line in out.splitlines() if line.split()[:2] == ["endings", "acc"])
    assert row[-2:] == ["2", "1"]
    assert "Limited to 2 questions per task" in out


@pytest.mark.filterwarnings("default")
def test_an_unknown_task_an_unknown_directory_and_missing_data_are_errors(
    folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_tasks(capsys, folder, "ending", "--include-path", tasks)
    assert (code, "Unknown task 'ending'. Did you mean 'endings'?" in err) == (2, True)
    code, _, err = run_tasks(capsys, folder, "endings", "--include-path", tasks / "none")
    assert (code, "Unknown directory" in err) == (2, True)
    (tasks / "rows.jsonl").unlink()
    code, _, err = run_tasks(capsys, folder, "endings", "--include-path", tasks)
    assert (code, "Cannot load the data of endings" in err) == (3, True)
