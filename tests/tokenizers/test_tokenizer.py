"""The protocol of all tokenizers: text round-trips, special tokens in a text are text, saving keeps the tokenizer."""

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.errors import TokenizerError
from fabella.tokenizers import loading
from tests.tokenizers.samples import AWKWARD, KINDS, corpus, random_text, texts, trained

REPOSITORY = Path(__file__).parents[2]
# With those of hypothesis below 100,000 texts in all, over the four kinds.
RANDOM_TEXTS = 24_000
EXAMPLES = 1_000
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.fault("G1", cases=RANDOM_TEXTS)
def test_text_of_any_unicode_plane_round_trips(kind: str) -> None:
    tokenizer = trained(kind)
    source = random.Random(1)
    several = [random_text(source, source.randrange(12)) for _ in range(RANDOM_TEXTS)]
    for text, ids in zip(several, tokenizer.encode_many(several), strict=True):
        assert tokenizer.decode(ids.tolist()) == text


@every_kind
@pytest.mark.fault("G1", cases=EXAMPLES)
@settings(max_examples=EXAMPLES)
@given(text=texts)
def test_text_round_trips_and_equals_the_bytes_of_its_tokens(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes(number) for number in ids) == text.encode()


@every_kind
@pytest.mark.fault("G3", cases=EXAMPLES // 4)
@settings(max_examples=EXAMPLES // 4)
@given(parts=st.lists(st.sampled_from(["<|endoftext|>", "<|endo", "ftext|>", "</s>", "<s>", "<unk>", "<", ">", "a "])))
def test_a_special_token_in_a_text_is_text(kind: str, parts: list[str]) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode("".join(parts)).tolist()
    assert tokenizer.eos_id not in ids
    assert all(tokenizer.token_bytes(number) for number in ids)


@every_kind
def test_awkward_texts_round_trip(kind: str) -> None:
    tokenizer = trained(kind)
    for text in [*AWKWARD, "".join(AWKWARD), "a" * 10_000, " " * 1000, ""]:
        assert tokenizer.decode(tokenizer.encode(text).tolist()) == text


@every_kind
def test_many_texts_encode_as_one_by_one(kind: str) -> None:
    tokenizer = trained(kind)
    several = [*corpus()[:20], *AWKWARD, ""]
    for one, of_many in zip(map(tokenizer.encode, several), tokenizer.encode_many(several), strict=True):
        assert one.dtype == of_many.dtype == np.int32
        np.testing.assert_array_equal(one, of_many)


@every_kind
def test_every_id_is_in_range_and_eos_has_no_bytes(kind: str) -> None:
    tokenizer = trained(kind)
    assert 0 <= tokenizer.eos_id < tokenizer.vocab_size
    assert tokenizer.token_bytes(tokenizer.eos_id) == b""
    assert tokenizer.decode([tokenizer.eos_id]) == ""
    ids = np.concatenate(tokenizer.encode_many(corpus()))
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size


@every_kind
@given(ids=st.lists(st.integers(0, 255), max_size=12))
def test_any_ids_decode_to_the_bytes_of_their_tokens(kind: str, ids: list[int]) -> None:
    tokenizer = trained(kind)
    spelled = b"".join(tokenizer.token_bytes(number) for number in ids)
    assert tokenizer.decode(ids) == spelled.decode(errors="replace")


@every_kind
@pytest.mark.parametrize("unknown", [-1, 10**6, 2**40])
def test_an_unknown_id_is_refused(kind: str, unknown: int) -> None:
    tokenizer = trained(kind)
    with pytest.raises(TokenizerError, match=rf"Unknown token id {unknown}\. The ids of this tokenizer are 0 to"):
        tokenizer.decode([0, unknown])
    with pytest.raises(TokenizerError):
        tokenizer.token_bytes(unknown)


@every_kind
def test_a_lone_surrogate_is_refused_with_its_position(kind: str) -> None:
    with pytest.raises(TokenizerError, match=r"Cannot encode character 3 of the text, U\+D83D: a lone surrogate"):
        trained(kind).encode("abc\ud83d")


@every_kind
def test_a_loaded_tokenizer_equals_the_saved_one(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    tokenizer.save(tmp_path)
    loaded = loading.load(tmp_path)
    assert (loaded.kind, loaded.vocab_size, loaded.eos_id) == (tokenizer.kind, tokenizer.vocab_size, tokenizer.eos_id)
    assert loaded.fingerprint == tokenizer.fingerprint
    for text in [*corpus()[:20], *AWKWARD]:
        np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))


@every_kind
def test_saving_again_writes_the_same_bytes(kind: str, tmp_path: Path) -> None:
    trained(kind).save(tmp_path / "once")
    loading.load(tmp_path / "once").save(tmp_path / "twice")
    for file in (tmp_path / "once").iterdir():
        assert (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes()


@every_kind
def test_a_tokenizer_can_be_pickled(kind: str) -> None:
    tokenizer = trained(kind)
    copy = pickle.loads(pickle.dumps(tokenizer))
    for text in ["<|endoftext|>", *corpus()[:5], *AWKWARD]:
        np.testing.assert_array_equal(copy.encode(text), tokenizer.encode(text))


def test_different_tokenizers_have_different_fingerprints() -> None:
    every = {trained(kind).fingerprint for kind in KINDS} | {trained("bpe", 500).fingerprint}
    assert len(every) == len(KINDS) + 1


TRAIN = """
from tests.tokenizers.samples import trained
print(trained({kind!r}).fingerprint)
"""


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
@pytest.mark.fault("G4", cases=3)
def test_training_does_not_depend_on_the_number_of_threads(kind: str) -> None:
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", TRAIN.format(kind=kind)]
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == trained(kind).fingerprint
