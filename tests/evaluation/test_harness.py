"""Standard tasks: the answers that the harness gets, its own tasks over local files, and errors in words.

The harness brings forty packages (300 MB: pandas, scikit-learn, nltk …), too much for `make test`; what needs it is
skipped without it. What Fabella answers is tested always.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import UsageError
from fabella.evaluation.harness import FILE, answer, score
from fabella.evaluation.predictions_torch import predictions
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
def teller(folder: Path) -> TextGenerator:
    return load(folder, device="cpu")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three tasks over one local file; nothing is read from the network or kept outside."""
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


def scored(teller: TextGenerator, *asked: tuple[str, str]) -> list[tuple[float, bool]]:
    return score(teller, partial(predictions, teller.model), asked)


# ---------------------------------------------------------------- what Fabella answers


def test_a_whole_text_is_as_likely_as_perplexity_says(teller: TextGenerator) -> None:
    text = "Once upon a time there was a dog, and another, and a third."
    assert scored(teller, ("", text))[0][0] == pytest.approx(-teller.perplexity(text).nats.sum(), rel=1e-5)


def test_parts_of_a_text_are_together_as_likely_as_the_whole(teller: TextGenerator) -> None:
    (whole, _), (first, _), (then, _) = scored(teller, ("", "Tom ran home."), ("", "Tom ran"), ("Tom ran", " home."))
    assert first + then == pytest.approx(whole, rel=1e-5)


def test_what_is_told_without_chance_is_what_a_greedy_choice_says(teller: TextGenerator) -> None:
    before = "Tom had"
    told = teller.generate(before, SamplingParams(temperature=0.0, top_p=1.0), max_tokens=6)[0]
    said = answer(teller, [(before, {"max_gen_toks": 6})])
    assert said == [told.completion]
    ids = teller.tokenizer.encode(before + told.completion)
    if teller.tokenizer.decode(ids.tolist()) == before + told.completion and "\ufffd" not in told.completion:
        assert scored(teller, (before, told.completion))[0][1]
    assert not scored(teller, (before, "\x00\x01\x02\x03"))[0][1]


def test_answers_end_before_a_stop_string_and_keep_their_order(teller: TextGenerator) -> None:
    whole = answer(teller, [("A", {"max_gen_toks": 12}), ("Bb", {"max_gen_toks": 12})])
    stop = whole[0][3]
    cut = answer(teller, [("Bb", {"max_gen_toks": 12}), ("A", {"max_gen_toks": 12, "until": ["", stop]})])
    assert cut == [whole[1], whole[0].partition(stop)[0]]
    assert answer(teller, [("A", {"max_gen_toks": 12, "until": stop})]) == [whole[0].partition(stop)[0]]


def test_the_same_question_asked_again_by_chance_is_answered_anew_but_the_same_each_time(teller: TextGenerator) -> None:
    settings = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 16}
    twice = answer(teller, [("Tom", settings)] * 2)
    assert twice[0] != twice[1]
    assert answer(teller, [("Tom", settings)] * 2) == twice


def test_a_setting_that_fabella_lacks_is_an_error_and_not_ignored(teller: TextGenerator) -> None:
    with pytest.raises(UsageError, match="asks for answers with num_beams, which Fabella does not have"):
        answer(teller, [("Tom", {"num_beams": 4})])


def test_without_the_extra_it_says_how_to_get_it(
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


@pytest.mark.filterwarnings("default")  # those of the harness and its packages are their own
def test_tasks_over_local_files_give_the_numbers_that_fabella_itself_gives(
    folder: Path, teller: TextGenerator, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_tasks(capsys, folder, *TASKS, "--folder", tasks, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((folder / FILE).read_text())
    values = {(row["task"], row["metric"]): row["value"] for row in found["measured"]}
    assert {row["questions"] for row in found["measured"]} == {len(ROWS)}
    right = [
        (one := scored(teller, *((row["before"], f" {end}") for end in row["endings"])))[0][0] > one[1][0]
        for row in ROWS
    ]
    assert values["endings", "acc"] == pytest.approx(sum(right) / len(ROWS))
    nats = sum(scored(teller, ("", row["before"]))[0][0] for row in ROWS)
    size = sum(len(row["before"].encode()) for row in ROWS)
    assert values["whole", "bits_per_byte"] == pytest.approx(-nats / size / math.log(2), rel=1e-5)
    assert ("answers", "exact_match") in values


@pytest.mark.filterwarnings("default")
def test_a_yaml_file_is_a_task_and_people_are_told_of_a_limit(
    folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_tasks(capsys, folder, tasks / "endings.yaml", "--limit", "2", "--shots", "1")
    assert code == 0, err
    row = next(line.split() for line in out.splitlines() if line.split()[:2] == ["endings", "acc"])
    assert row[-2:] == ["2", "1"]
    assert "At most 2 questions a task were asked" in out


@pytest.mark.filterwarnings("default")
def test_an_unknown_task_or_folder_and_missing_data_are_named(
    folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_tasks(capsys, folder, "ending", "--folder", tasks)
    assert (code, "There is no task 'ending'. Did you mean 'endings'?" in err) == (2, True)
    code, _, err = run_tasks(capsys, folder, "endings", "--folder", tasks / "none")
    assert (code, "There is no folder" in err) == (2, True)
    (tasks / "rows.jsonl").unlink()
    code, _, err = run_tasks(capsys, folder, "endings", "--folder", tasks)
    assert (code, "The data of endings cannot be had" in err) == (3, True)
