"""Compare an export with its run: logits, greedy tokens, bits per byte, and the ids of texts."""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from fabella.engine.build_model_torch import load_model
from fabella.errors import FabellaError
from fabella.generation.decoder.backends_torch import NativeBackend, compile_decoder, decode_backend
from fabella.generation.decoder.weights import PrefillChunk
from fabella.generation.generate_torch import generate
from fabella.generation.sampling import SamplingParams
from fabella.interop.comparison import (
    GREEDY_TOKENS,
    INT8_TIE,
    LOGIT_TOLERANCE,
    PROBE_TOKENS,
    PROMPT_TOKENS,
    PROMPTS,
    Comparison,
)
from fabella.interop.formats.export_format import ExportTarget
from fabella.interop.source import ExportSource
from fabella.interop.tokenizer_json import is_same_text
from fabella.runs.run_dataset import find_run_dataset
from fabella.tokenizers.chat.encode import prefix_id

Ids = Int[NDArray[np.int64], "B T"]
TEXTS = (
    "Once upon a time, there was a little girl named Lily.",
    " two  spaces, a\ttab and\r\na line  ",
    "Ünïcödé: 你好, мир, 🙂👩‍👩‍👧, ▁ and \u00a0.",
    "def f(x):\n    return x[0] + 1e-5  # 100%\n\n",
    "<|endoftext|></s><s>[INST]",
    "",
    "a",
    "\n",
)
"""Texts that every tokenizer must read alike, in addition to the run's sample prompts and the compared text."""


def compare(source: ExportSource, target: ExportTarget, precision: str, *, int8_decoder: bool = False) -> Comparison:
    """Run both and return the measured differences. Raises NumericsError if the model's logits are not finite.

    ``int8_decoder``: the target computes like Fabella's native int8 decoder and must generate the same text. Where that
    cannot be built, the text is compared with the float32 decoder's and need not be equal.
    """
    model = load_model(source.config, source.weights, "cpu")
    ids, text = _probe_ids(source, model)
    difference, largest, nats = _compare_logits(source, model, target, ids)
    prompts = ids[:, : min(PROMPT_TOKENS, ids.shape[1], max(1, source.context_length // 2))]
    tokens = _greedy_tokens(source, prompts.shape[1])
    decoder = "int8" if int8_decoder and _use_native_int8(model) else "float32"
    expected = _rows(generate_greedy(source, model, prompts, tokens))
    start = time.perf_counter()
    actual = target.greedy(prompts, tokens)
    seconds = time.perf_counter() - start
    equal, ties = _compare_greedy(source, model, prompts, (expected, actual), decoder)
    scored = _bytes(source, ids)
    return Comparison(
        target=target.name,
        precision=precision,
        decoder=decoder,
        text=text,
        max_logit_difference=difference,
        largest_logit=largest,
        prompts=len(prompts),
        tokens=tokens,
        greedy_equal=equal,
        greedy_ties=ties,
        bits_per_byte=nats[0] / math.log(2) / scored,
        target_bits_per_byte=nats[1] / math.log(2) / scored,
        tokenizer=_compare_tokenizer(source, target, ids),
        tokens_per_second=actual.size / seconds,
    )


def generate_greedy(source: ExportSource, model: torch.nn.Module, prompts: Ids, tokens: int) -> list[list[int]]:
    """Return the greedy ids of Fabella's decoder, one list per step."""
    rows = [row.astype(np.int32) for row in prompts]
    steps = generate(
        model,  # pyright: ignore[reportArgumentType] - every Model keeps the contract
        rows,
        SamplingParams(temperature=0.0),
        rows=[0] * len(rows),
        max_tokens=tokens,
        vocab_size=source.tokenizer.vocab_size,
    )
    return list(steps)


def _probe_ids(source: ExportSource, model: torch.nn.Module) -> tuple[Ids, str]:
    """Return rows of ids that begin with the id that precedes a document, and what they are."""
    length = min(PROBE_TOKENS, source.context_length)
    held_out = _held_out_ids(source, length - 1)
    if held_out is not None:
        return _with_prefix(source, held_out), "held-out text"
    prefix = np.full(1, prefix_id(source.tokenizer), dtype=np.int32)
    steps = generate(
        model,  # pyright: ignore[reportArgumentType]
        [prefix] * PROMPTS,
        SamplingParams(temperature=1.0, top_p=1.0, seed=1),
        rows=range(PROMPTS),
        max_tokens=max(length - 1, 1),
        vocab_size=source.tokenizer.vocab_size,
    )
    return _with_prefix(source, _rows(list(steps))), "generated text"


def _held_out_ids(source: ExportSource, length: int) -> Ids | None:
    """Return the first ids of held-out documents; None if the dataset is missing, damaged or too short."""
    try:
        dataset = find_run_dataset(source.run_dir)
    except FabellaError:  # an imported run has none, and a damaged one is a matter of fabella verify
        return None
    if dataset is None:
        return None
    split = dataset.validation
    starts = [int(start) for start in split.offsets[:-1] if start + length <= split.tokens][:PROMPTS]
    if length < 1 or not starts:
        return None
    return np.stack([split.read(start, start + length).astype(np.int64) for start in starts])


def _with_prefix(source: ExportSource, ids: Ids) -> Ids:
    first = np.full((len(ids), 1), prefix_id(source.tokenizer))
    return np.concatenate([first, ids], axis=1).astype(np.int64)


def _rows(steps: Sequence[Sequence[int]]) -> Ids:
    return np.array(steps, dtype=np.int64).T


@torch.inference_mode()
def _compare_logits(
    source: ExportSource, model: torch.nn.Module, target: ExportTarget, ids: Ids
) -> tuple[float, float, tuple[float, float]]:
    """Return the largest difference, the largest logit, and the nats of the ids: Fabella's and the target's."""
    rows = source.config.vocab_size
    difference = largest = ours = theirs = 0.0
    for row in ids:
        tokens = torch.from_numpy(row[None])
        expected = model(tokens).float()
        actual = torch.from_numpy(target.logits(row[None]))[..., :rows]
        gap = (expected - actual).abs().max()
        difference = math.nan if not torch.isfinite(gap) else max(difference, float(gap))
        largest = max(largest, float(expected.abs().max()))
        ours += _nats(expected[0], tokens[0])
        theirs += _nats(actual[0], tokens[0])
    return difference, largest, (ours, theirs)


def _nats(logits: Float[torch.Tensor, "T V"], ids: Int[torch.Tensor, " T"]) -> float:
    return float(torch.nn.functional.cross_entropy(logits[:-1].double(), ids[1:], reduction="sum"))


def _bytes(source: ExportSource, ids: Ids) -> int:
    """Return the bytes of text of all ids but the first of each row; 1 if they are all special tokens."""
    return sum(len(source.tokenizer.token_bytes(int(token))) for row in ids for token in row[1:]) or 1


def _greedy_tokens(source: ExportSource, prompt: int) -> int:
    if source.config.unlimited_context:
        return GREEDY_TOKENS
    return max(1, min(GREEDY_TOKENS, source.context_length - prompt))


def _use_native_int8(model: torch.nn.Module) -> bool:
    """Generate with the native int8 decoder from now on; return False, and change nothing, if it cannot be built."""
    compile_decoder(model, "int8")
    if isinstance(decode_backend(model, 1, 1), NativeBackend):
        return True
    compile_decoder(model)
    return False


def _compare_greedy(
    source: ExportSource, model: torch.nn.Module, prompts: Ids, decoded: tuple[Ids, Ids], decoder: str
) -> tuple[int, int]:
    """Return how many rows are equal up to the end of the document, and how many of them only up to a tie."""
    equal = ties = 0
    for prompt, expected, actual in zip(prompts, *decoded, strict=True):
        ends = np.flatnonzero(expected == source.tokenizer.eos_id)
        length = int(ends[0]) + 1 if len(ends) else len(expected)
        different = np.flatnonzero(expected[:length] != actual[:length])
        if not len(different):
            equal += 1
        elif _is_tie(model, np.concatenate([prompt, expected]), len(prompt) + int(different[0]), actual, decoder):
            equal += 1
            ties += 1
    return equal, ties


@torch.inference_mode()
def _is_tie(
    model: torch.nn.Module,
    ids: Int[NDArray[np.int64], " T"],
    position: int,
    actual: NDArray[np.int64],
    decoder: str,
) -> bool:
    """Return whether the two tokens at ``position`` have the same logit, up to the tolerance."""
    other = int(actual[position - (len(ids) - len(actual))])
    if decoder == "int8":
        backend = decode_backend(model, 1, position)
        backend.reset(0)
        logits, tolerance = backend.prefill([PrefillChunk(0, ids[:position].tolist(), 0)])[0], INT8_TIE
    else:
        logits, tolerance = model(torch.from_numpy(ids[None, :position]))[0, -1], LOGIT_TOLERANCE
    return float(logits[int(ids[position])] - logits[other]) <= tolerance


def _compare_tokenizer(source: ExportSource, target: ExportTarget, ids: Ids) -> str:
    if target.encode("") is None:
        return getattr(target, "tokenizer_note", "not part of this format")
    tokenizer = source.tokenizer
    texts = [*TEXTS, *source.run_dir.run.samples.prompts, *(tokenizer.decode(row[1:].tolist()) for row in ids)]
    if tokenizer.chat_template is not None:  # with one, the target reads special tokens in text as such
        texts = [text for text in texts if not any(token in text for token in tokenizer.special_tokens)]
    for text in texts:
        expected, actual = [prefix_id(tokenizer), *tokenizer.encode(text).tolist()], list(target.encode(text) or ())
        if actual != expected:
            return f"differs: {text[:40]!r} is {actual[:8]}, not {expected[:8]}"
        decoded = target.decode(expected[1:])
        if not is_same_text(tokenizer.decode(expected[1:]), decoded):
            return f"differs: the ids of {text[:40]!r} become {decoded[:40]!r}"
    return "equal"
