"""Tests of TextGenerator: completions and perplexity of a loaded run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fabella
from fabella.config.data import Packed, Padded
from fabella.errors import CheckpointError, TextError, TokenizerError, UsageError
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from tests.generation import tiny_run
from tests.generation.fake_model import Config, Hashing, Parrot

LENGTH = 16
PACKED = Packed(length=LENGTH, stride=LENGTH)
PADDED = Padded(length=LENGTH)


def hashing_generator(
    *, sequences: Packed | Padded = PACKED, endless: bool = False, end_logit: float = -3.0
) -> TextGenerator:
    config = Config(vocab_size=256, context_length=4 * LENGTH, endless=endless)
    model = Hashing(config, end=tiny_run.tokenizer().eos_id, end_logit=end_logit)
    return TextGenerator(model, tiny_run.tokenizer(), config=config, sequences=sequences, engine="torch")


def parrot_generator(text: str, prompt: str) -> TextGenerator:
    """Return a generator that continues ``prompt`` with ``text``."""
    config = Config(vocab_size=256, context_length=1024)
    eos_id = tiny_run.tokenizer().eos_id
    model = Parrot(config, [*text.encode(), eos_id], prompt=len(prompt.encode()) + 1)
    sequences = Packed(length=1024, stride=1024)
    return TextGenerator(model, tiny_run.tokenizer(), config=config, sequences=sequences, engine="torch")


# ---------------------------------------------------------------- completions


@settings(max_examples=25)
@given(prompts=st.lists(st.text(max_size=30), min_size=1, max_size=40), n=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_completion_does_not_depend_on_the_others(prompts: list[str], n: int, seed: int) -> None:
    """Also when the prompts need several batches, and when completions end at different steps."""
    generator, sampling = hashing_generator(), SamplingParams(temperature=1.0, seed=seed)
    batched = generator.stream_many(prompts, sampling, n=n, max_tokens=9, stop=["a"]).completions()
    single = [
        completion
        for prompt in prompts
        for completion in generator.generate(prompt, sampling, n=n, max_tokens=9, stop=["a"])
    ]
    assert [(s.text, s.finish_reason, s.tokens, s.context_shifts) for s in batched] == [
        (s.text, s.finish_reason, s.tokens, s.context_shifts) for s in single
    ]


@given(prompt=st.text(max_size=30), seed=st.integers(0, 2**63 - 1), stop=st.lists(st.sampled_from("abc"), max_size=2))
def test_the_streamed_pieces_are_the_completion(prompt: str, seed: int, stop: list[str]) -> None:
    generator, sampling = hashing_generator(), SamplingParams(temperature=1.0, seed=seed)
    completion = generator.generate(prompt, sampling, max_tokens=20, stop=stop)[0]
    assert "".join(generator.stream(prompt, sampling, max_tokens=20, stop=stop)) == completion.completion
    assert completion.text == prompt + completion.completion


def test_every_seed_and_sample_gives_another_completion() -> None:
    outputs = [
        completion.completion
        for seed in range(4)
        for completion in hashing_generator().generate(
            "Once", SamplingParams(temperature=1.0, seed=seed), n=3, max_tokens=30
        )
    ]
    assert len(set(outputs)) == len(outputs)


def test_a_character_of_four_tokens_is_streamed_in_one_piece_and_eos_ends_the_completion() -> None:
    generator = parrot_generator(" 🐉!", "A")
    assert list(generator.stream("A")) == [" ", "🐉", "!"]
    completion = generator.generate("A")[0]
    assert (completion.text, completion.finish_reason, completion.tokens) == ("A 🐉!", "eos", 6)


def test_stop_strings_end_a_completion_and_are_not_part_of_it() -> None:
    generator = parrot_generator(" Tom ran. Tim sat.", "A")
    assert "".join(generator.stream("A", stop=[". T", "Tim"])) == " Tom ran"
    assert generator.generate("A", stop=[". T", "Tim"])[0].finish_reason == "stop"


def test_the_repetition_penalty_does_not_penalize_eos() -> None:
    """The EOS before the prompt is not text."""
    generator = hashing_generator()
    generator.model.table[:] = 1.0
    generator.model.table[:, generator.tokenizer.eos_id] = 2.0
    completion = generator.generate("Once", SamplingParams(temperature=0, repetition_penalty=50.0))[0]
    assert (completion.completion, completion.finish_reason) == ("", "eos")


@pytest.mark.parametrize("sequences", [PACKED, PADDED], ids=["packed", "padded"])
def test_an_empty_prompt_starts_a_document(sequences: Packed | Padded) -> None:
    assert hashing_generator(sequences=sequences).generate("", max_tokens=3)[0].tokens == 3


def test_a_prompt_follows_eos_with_packed_and_padded_training_sequences() -> None:
    greedy = SamplingParams(temperature=0)
    outputs = [
        hashing_generator(sequences=sequences).generate("Once", greedy, max_tokens=8)[0].completion
        for sequences in (PACKED, PADDED)
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(("endless", "shifts"), [(False, (1 + 4 + 40 - 1 - LENGTH + 8) // 9), (True, 0)])
def test_a_completion_longer_than_the_training_sequences_counts_its_context_shifts(endless: bool, shifts: int) -> None:
    """The model supports 64 positions, but was trained on the first 16 of them."""
    generator = hashing_generator(endless=endless, end_logit=-99.0)
    completion = generator.generate("Once", max_tokens=40)[0]
    assert (completion.tokens, completion.context_shifts) == (40, shifts)
    assert generator.context_length == LENGTH
    assert generator.model.longest == (LENGTH if not endless else 44)


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
def test_invalid_arguments_are_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as error:
        hashing_generator().generate("Once", **arguments)  # type: ignore[arg-type]
    assert str(error.value).startswith(text)


def test_half_a_character_in_a_prompt_is_refused() -> None:
    with pytest.raises(TokenizerError, match="U\\+D83D"):
        hashing_generator().generate("Once \ud83d")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    config = Config(vocab_size=200)
    with pytest.raises(TokenizerError) as error:
        TextGenerator(Hashing(config), tiny_run.tokenizer(), config=config, sequences=PACKED, engine="torch")
    assert str(error.value) == (
        "The tokenizer has 256 ids, the model only 200. "
        "Use the tokenizer that the run was trained with (the directory 'tokenizer' of the run)."
    )


def test_ids_of_the_model_that_the_tokenizer_lacks_are_never_sampled() -> None:
    config = Config(vocab_size=400, context_length=LENGTH)
    generator = TextGenerator(Hashing(config), tiny_run.tokenizer(), config=config, sequences=PACKED, engine="torch")
    assert generator.generate("Once", SamplingParams(temperature=100.0, top_p=1.0), max_tokens=500, n=2)[0].tokens > 0


# ---------------------------------------------------------------- perplexity


def test_perplexity_scores_every_token_with_packed_and_padded_training_sequences() -> None:
    assert (
        len(hashing_generator().perplexity("Once").ids)
        == len(hashing_generator(sequences=PADDED).perplexity("Once").ids)
        == 4
    )


def test_perplexity_uses_no_more_context_than_in_training() -> None:
    generator = hashing_generator()
    assert generator.perplexity("a" * 40).sequences == 4
    assert generator.model.longest == LENGTH


def test_an_empty_text_has_no_perplexity() -> None:
    with pytest.raises(TextError, match="The text has no token to predict"):
        hashing_generator().perplexity("")


def test_perplexity_uses_the_probabilities_of_generation() -> None:
    """Each greedy token is the most likely of 256, so that its probability is at least 1/256."""
    generator = hashing_generator(end_logit=-99.0)
    generator.model.table[:, 128:] = -99.0  # only ASCII, so that the text encodes to the generated ids
    completion = generator.generate("Once", SamplingParams(temperature=0), max_tokens=11)[0]
    nats = generator.perplexity(completion.text).nats[4:]
    assert len(nats) == 11
    assert (nats < np.log(256)).all()


# ---------------------------------------------------------------- run directories


@pytest.fixture(scope="module", params=["llama", "mingru"])
def run_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_run.LLAMA if request.param == "llama" else tiny_run.MINGRU
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "tiny", tiny_run.run(model))


def test_a_run_directory_can_be_loaded_by_its_path(run_dir: Path) -> None:
    generator = load(run_dir)
    completions = generator.generate("Once upon a time", SamplingParams(seed=3), n=2, max_tokens=40)
    assert [completion.prompt for completion in completions] == ["Once upon a time"] * 2
    assert completions[0].completion != completions[1].completion
    assert (
        load(str(run_dir)).generate("Once upon a time", SamplingParams(seed=3), max_tokens=40)[0].completion
        == completions[0].completion
    )
    assert generator.perplexity("Once upon a time").perplexity > 1
    assert generator.context_length == 32


def test_the_model_of_a_loaded_run_is_a_module_from_tokens_to_logits(run_dir: Path) -> None:
    model = fabella.load(run_dir, device="cpu").model
    assert isinstance(model, torch.nn.Module)
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 256)


def test_the_package_lists_its_public_names() -> None:
    names = [
        "EvalConfig", "FabellaError", "SamplingParams", "__version__", "activations", "compare", "evaluate", "export",
        "export_checkpoints", "import_model", "load", "prepare", "read_metrics", "resume", "train", "verify",
        "write_report",
    ]  # fmt: skip
    assert dir(fabella) == names
    assert all(hasattr(fabella, name) for name in names)


def test_checkpoints_are_chosen_by_name_or_step(run_dir: Path) -> None:
    assert [load(run_dir, checkpoint=which).step for which in ("best", "latest", 10, 20, "10")] == [10, 20, 10, 20, 10]
    outputs = {
        load(run_dir, checkpoint=step).generate("A", SamplingParams(temperature=0))[0].completion for step in (10, 20)
    }
    assert len(outputs) == 2, "each checkpoint has its own weights"


def test_an_unknown_checkpoint_is_refused(run_dir: Path) -> None:
    with pytest.raises(UsageError) as error:
        load(run_dir, checkpoint="newest")
    assert str(error.value) == "Unknown checkpoint 'newest'. Use best, latest, or a step number."
    with pytest.raises(CheckpointError):
        load(run_dir, checkpoint=15)


def test_a_directory_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No run directory at"):
        load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is not a run directory"):
        load(tmp_path)


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    tiny_run.make(tmp_path / "new", steps=())
    with pytest.raises(CheckpointError, match="has no valid checkpoint"):
        load(tmp_path / "new")


def test_a_run_whose_tokenizer_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    tiny_run.make(tmp_path / "small", tiny_run.run(vocab_size=100))
    with pytest.raises(TokenizerError, match="The tokenizer has 256 ids, the model only 100"):
        load(tmp_path / "small")


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path) -> None:
    run_dir = tiny_run.make(tmp_path / "run", best=20)
    (run_dir / "checkpoints" / "step-00000020" / "model.safetensors").write_bytes(b"torn")
    generator = load(run_dir)
    assert generator.step == 10
    assert ["step-00000020" in warning for warning in generator.warnings] == [True]


LIGHT = """
import sys
from fabella.generation.generator import load
load(sys.argv[1], device="cpu").generate("Once", max_tokens=2)
heavy = sorted({"sympy", "torch._dynamo", "torch._inductor", "transformers", "matplotlib"} & set(sys.modules))
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""


def test_generation_does_not_import_slow_modules(tmp_path: Path) -> None:
    """Importing sympy takes half a second; a single tensor on the meta device imports it."""
    path = tiny_run.make(tmp_path / "run")
    process = subprocess.run([sys.executable, "-c", LIGHT, str(path)], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
