"""A run folder tells stories, and says how likely a text is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.config.data import Packed, Padded
from fabella.errors import CheckpointError, TextError, TokenizerError, UsageError
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from tests.generation import tiny_run
from tests.generation.fake_model import Config, Hashing, Parrot

LENGTH = 16
CHAINED = Packed(length=LENGTH, stride=LENGTH)
DOCUMENTS = Padded(length=LENGTH)


def teller(*, windows: Packed | Padded = CHAINED, endless: bool = False, end_logit: float = -3.0) -> TextGenerator:
    config = Config(vocab_size=256, context_length=4 * LENGTH, endless=endless)
    model = Hashing(config, end=tiny_run.tokenizer().eos_id, end_logit=end_logit)
    return TextGenerator(model, tiny_run.tokenizer(), config=config, sequences=windows, engine="torch")


def saying(text: str, prompt: str) -> TextGenerator:
    """One that continues ``prompt`` with ``text``."""
    config = Config(vocab_size=256, context_length=1024)
    end = tiny_run.tokenizer().eos_id
    model = Parrot(config, [*text.encode(), end], prompt=len(prompt.encode()) + 1)
    windows = Packed(length=1024, stride=1024)
    return TextGenerator(model, tiny_run.tokenizer(), config=config, sequences=windows, engine="torch")


# ---------------------------------------------------------------- stories


@settings(max_examples=25)
@given(prompts=st.lists(st.text(max_size=30), min_size=1, max_size=40), n=st.integers(1, 3), seed=st.integers(0, 9))
def test_every_story_is_the_one_told_alone(prompts: list[str], n: int, seed: int) -> None:
    """Also where the prompts are too many, or too different, to be told together; with ends at different times."""
    storyteller, sampling = teller(), SamplingParams(temperature=1.0, seed=seed)
    together = storyteller.stream_many(prompts, sampling, n=n, max_tokens=9, stop=["a"]).completions()
    alone = [
        story for prompt in prompts for story in storyteller.generate(prompt, sampling, n=n, max_tokens=9, stop=["a"])
    ]
    assert [(s.text, s.finish_reason, s.tokens, s.context_shifts) for s in together] == [
        (s.text, s.finish_reason, s.tokens, s.context_shifts) for s in alone
    ]


@given(prompt=st.text(max_size=30), seed=st.integers(0, 2**63 - 1), stop=st.lists(st.sampled_from("abc"), max_size=2))
def test_the_stream_is_the_story(prompt: str, seed: int, stop: list[str]) -> None:
    storyteller, sampling = teller(), SamplingParams(temperature=1.0, seed=seed)
    story = storyteller.generate(prompt, sampling, max_tokens=20, stop=stop)[0]
    assert "".join(storyteller.stream(prompt, sampling, max_tokens=20, stop=stop)) == story.completion
    assert story.text == prompt + story.completion


def test_seeds_and_samples_tell_different_stories() -> None:
    told = [
        story.completion
        for seed in range(4)
        for story in teller().generate("Once", SamplingParams(temperature=1.0, seed=seed), n=3, max_tokens=30)
    ]
    assert len(set(told)) == len(told)


def test_a_character_of_four_tokens_is_streamed_whole_and_the_story_ends_with_its_end() -> None:
    storyteller = saying(" 🐉!", "A")
    assert list(storyteller.stream("A")) == [" ", "🐉", "!"]
    story = storyteller.generate("A")[0]
    assert (story.text, story.finish_reason, story.tokens) == ("A 🐉!", "eos", 6)


def test_stop_strings_end_a_story_and_are_not_shown() -> None:
    storyteller = saying(" Tom ran. Tim sat.", "A")
    assert "".join(storyteller.stream("A", stop=[". T", "Tim"])) == " Tom ran"
    assert storyteller.generate("A", stop=[". T", "Tim"])[0].finish_reason == "stop"


def test_a_penalty_on_repetition_does_not_put_off_the_end() -> None:
    """The end id, read before the prompt, is no word of the text."""
    storyteller = teller()
    storyteller.model.table[:] = 1.0
    storyteller.model.table[:, storyteller.tokenizer.eos_id] = 2.0
    story = storyteller.generate("Once", SamplingParams(temperature=0, repetition_penalty=50.0))[0]
    assert (story.completion, story.finish_reason) == ("", "eos")


@pytest.mark.parametrize("windows", [CHAINED, DOCUMENTS], ids=["chained", "documents"])
def test_an_empty_prompt_begins_a_document(windows: Packed | Padded) -> None:
    assert teller(windows=windows).generate("", max_tokens=3)[0].tokens == 3


def test_a_prompt_is_read_after_the_end_of_a_document_however_the_model_learned() -> None:
    greedy = SamplingParams(temperature=0)
    told = [
        teller(windows=windows).generate("Once", greedy, max_tokens=8)[0].completion for windows in (CHAINED, DOCUMENTS)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(("endless", "rereads"), [(False, (1 + 4 + 40 - 1 - LENGTH + 8) // 9), (True, 0)])
def test_a_text_longer_than_the_windows_it_learned_from_says_how_often_it_forgot(endless: bool, rereads: int) -> None:
    """The model has room for 64 positions, but learned only the first 16 of them."""
    storyteller = teller(endless=endless, end_logit=-99.0)
    story = storyteller.generate("Once", max_tokens=40)[0]
    assert (story.tokens, story.context_shifts) == (40, rereads)
    assert storyteller.context_length == LENGTH
    assert storyteller.model.longest == (LENGTH if not endless else 44)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": 0}, "n = 0 is less than 1. Request at least one completion."),
        ({"max_tokens": 0}, "max_tokens = 0 is out of range: it must be at least 1 and at most 1,000,000."),
        (
            {"max_tokens": 1_000_001},
            "max_tokens = 1,000,001 is out of range: it must be at least 1 and at most 1,000,000.",
        ),
        ({"stop": [""]}, "A stop string is empty, and would end every text at once."),
    ],
)
def test_impossible_wishes_are_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as error:
        teller().generate("Once", **arguments)  # type: ignore[arg-type]
    assert str(error.value).startswith(text)


def test_half_a_character_in_a_prompt_is_refused() -> None:
    with pytest.raises(TokenizerError, match="U\\+D83D"):
        teller().generate("Once \ud83d")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    config = Config(vocab_size=200)
    with pytest.raises(TokenizerError) as error:
        TextGenerator(Hashing(config), tiny_run.tokenizer(), config=config, sequences=CHAINED, engine="torch")
    assert str(error.value) == (
        "The tokenizer has 256 ids, the model only 200. "
        "Use the tokenizer that the run was trained with (the directory 'tokenizer' of the run)."
    )


def test_a_model_with_more_ids_than_the_tokenizer_never_chooses_them() -> None:
    config = Config(vocab_size=400, context_length=LENGTH)
    storyteller = TextGenerator(Hashing(config), tiny_run.tokenizer(), config=config, sequences=CHAINED, engine="torch")
    assert storyteller.generate("Once", SamplingParams(temperature=100.0, top_p=1.0), max_tokens=500, n=2)[0].tokens > 0


# ---------------------------------------------------------------- perplexity


def test_perplexity_scores_every_token_however_the_model_learned() -> None:
    assert len(teller().perplexity("Once").ids) == len(teller(windows=DOCUMENTS).perplexity("Once").ids) == 4


def test_perplexity_looks_back_no_further_than_the_model_learned_to() -> None:
    storyteller = teller()
    assert storyteller.perplexity("a" * 40).sequences == 4
    assert storyteller.model.longest == LENGTH


def test_an_empty_text_has_no_perplexity() -> None:
    with pytest.raises(TextError, match="The text has no token to predict"):
        teller().perplexity("")


def test_probabilities_are_those_that_choices_are_made_with() -> None:
    """Each greedy choice is the most likely of 256, and so at least as likely as 1 in 256."""
    storyteller = teller(end_logit=-99.0)
    storyteller.model.table[:, 128:] = -99.0  # only whole characters: the text gives back the ids that were chosen
    story = storyteller.generate("Once", SamplingParams(temperature=0), max_tokens=11)[0]
    told = storyteller.perplexity(story.text).nats[4:]
    assert len(told) == 11
    assert (told < np.log(256)).all()


# ---------------------------------------------------------------- run folders


@pytest.fixture(scope="module", params=["llama", "mingru"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_run.LLAMA if request.param == "llama" else tiny_run.MINGRU
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "tiny", tiny_run.run(model))


def test_a_run_folder_is_all_it_takes(folder: Path) -> None:
    storyteller = load(folder)
    stories = storyteller.generate("Once upon a time", SamplingParams(seed=3), n=2, max_tokens=40)
    assert [story.prompt for story in stories] == ["Once upon a time"] * 2
    assert stories[0].completion != stories[1].completion
    assert (
        load(str(folder)).generate("Once upon a time", SamplingParams(seed=3), max_tokens=40)[0].completion
        == stories[0].completion
    )
    assert storyteller.perplexity("Once upon a time").perplexity > 1
    assert storyteller.context_length == 32


def test_checkpoints_are_chosen_by_name_or_step(folder: Path) -> None:
    assert [load(folder, checkpoint=which).step for which in ("best", "latest", 10, 20, "10")] == [10, 20, 10, 20, 10]
    told = {
        load(folder, checkpoint=step).generate("A", SamplingParams(temperature=0))[0].completion for step in (10, 20)
    }
    assert len(told) == 2, "each checkpoint has weights of its own"


def test_a_checkpoint_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError) as error:
        load(folder, checkpoint="newest")
    assert str(error.value) == "Unknown checkpoint 'newest'. Use best, latest, or a step number."
    with pytest.raises(CheckpointError):
        load(folder, checkpoint=15)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No run directory at"):
        load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is not a run directory"):
        load(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    tiny_run.make(tmp_path / "new", steps=())
    with pytest.raises(CheckpointError, match="has no valid checkpoint"):
        load(tmp_path / "new")


def test_a_run_whose_tokenizer_is_another_is_refused(tmp_path: Path) -> None:
    tiny_run.make(tmp_path / "small", tiny_run.run(vocab_size=100))
    with pytest.raises(TokenizerError, match="The tokenizer has 256 ids, the model only 100"):
        load(tmp_path / "small")


def test_a_damaged_checkpoint_is_passed_over_with_a_remark(tmp_path: Path) -> None:
    folder = tiny_run.make(tmp_path / "run", best=20)
    (folder / "checkpoints" / "step-00000020" / "model.safetensors").write_bytes(b"torn")
    storyteller = load(folder)
    assert storyteller.step == 10
    assert [("step-00000020" in remark) for remark in storyteller.warnings] == [True]


LIGHT = """
import sys
from fabella.generation.generator import load
load(sys.argv[1], device="cpu").generate("Once", max_tokens=2)
heavy = sorted({"sympy", "torch._dynamo", "torch._inductor", "transformers", "matplotlib"} & set(sys.modules))
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""


def test_the_first_word_does_not_wait_for_what_it_does_not_need(tmp_path: Path) -> None:
    """sympy alone is half a second; one tensor on the meta device brings it."""
    path = tiny_run.make(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", LIGHT, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
