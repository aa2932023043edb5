"""Compare an export with its run: logits, greedy tokens, bits per byte, and the ids of texts."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    Rounding,
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
    logits = _compare_logits(source, model, target, ids)
    prompts = ids[:, : min(PROMPT_TOKENS, ids.shape[1], max(1, source.context_length // 2))]
    tokens = _greedy_tokens(source, prompts.shape[1])
    decoder = "int8" if int8_decoder and _use_native_int8(model) else "float32"
    expected = _rows(generate_greedy(source, model, prompts, tokens))
    start = time.perf_counter()
    actual = target.greedy(prompts, tokens)
    seconds = time.perf_counter() - start
    gaps = _greedy_gaps(source, model, prompts, (expected, actual), decoder)
    tie = INT8_TIE if decoder == "int8" else LOGIT_TOLERANCE
    scored = _bytes(source, ids)
    return Comparison(
        target=target.name,
        precision=precision,
        decoder=decoder,
        text=text,
        max_logit_difference=logits.difference,
        rounding=logits.rounding(target),
        largest_logit=logits.largest,
        prompts=len(prompts),
        tokens=tokens,
        greedy_equal=sum(gap is None or gap <= tie for gap in gaps),
        greedy_ties=sum(gap is not None and gap <= tie for gap in gaps),
        greedy_explained=sum(gap is None or gap <= max(tie, logits.difference) for gap in gaps),
        bits_per_byte=logits.nats / math.log(2) / scored,
        target_bits_per_byte=logits.target_nats / math.log(2) / scored,
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


@dataclass(slots=True)
class _Logits:
    """The largest difference of the logits of both, the largest logit, and the nats of the ids."""

    difference: float = 0.0
    largest: float = 0.0
    nats: float = 0.0
    target_nats: float = 0.0
    effects: list[torch.Tensor] = field(default_factory=list)
    """What the rounding of the target changes in Fabella's model."""
    rests: list[torch.Tensor] = field(default_factory=list)
    """How the target differs from Fabella's model with it."""

    def rounding(self, target: ExportTarget) -> Rounding | None:
        """Return the measured rounding of the target; None without one."""
        if not self.effects:
            return None
        effects, rests = torch.cat(self.effects).double(), torch.cat(self.rests).double()
        return Rounding(
            name=getattr(target, "rounding", ""),
            effect=float(effects.square().mean().sqrt()),
            max_effect=float(effects.abs().max()),
            rest=float(rests.square().mean().sqrt()),
            max_rest=float(rests.abs().max()),
        )


@torch.inference_mode()
def _compare_logits(source: ExportSource, model: torch.nn.Module, target: ExportTarget, ids: Ids) -> _Logits:
    rows, found = source.config.vocab_size, _Logits()
    for row in ids:
        tokens = torch.from_numpy(row[None])
        expected = model(tokens).float()
        actual = torch.from_numpy(target.logits(row[None]))[..., :rows]
        found.difference = _larger(found.difference, expected, actual)
        if getattr(target, "rounding", ""):
            with target.rounded():  # pyright: ignore[reportAttributeAccessIssue] - a target with a rounding has it
                rounded = model(tokens).float()
            found.effects.append(rounded - expected)
            found.rests.append(actual - rounded)
        found.largest = max(found.largest, float(expected.abs().max()))
        found.nats += _nats(expected[0], tokens[0])
        found.target_nats += _nats(actual[0], tokens[0])
    return found


def _larger(difference: float, expected: torch.Tensor, actual: torch.Tensor) -> float:
    """Return ``difference`` or the largest difference of two logits, the larger; NaN if a logit is not finite."""
    gap = (expected - actual).abs().max()
    return max(difference, float(gap)) if math.isfinite(difference) and torch.isfinite(gap) else math.nan


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


def _greedy_gaps(
    source: ExportSource, model: torch.nn.Module, prompts: Ids, decoded: tuple[Ids, Ids], decoder: str
) -> list[float | None]:
    """Return how much the logits of the first two different tokens differ, for every row.

    None for a row that is equal up to the end of the document.
    """
    gaps: list[float | None] = []
    for prompt, expected, actual in zip(prompts, *decoded, strict=True):
        ends = np.flatnonzero(expected == source.tokenizer.eos_id)
        length = int(ends[0]) + 1 if len(ends) else len(expected)
        different = np.flatnonzero(expected[:length] != actual[:length])
        if len(different):
            position = len(prompt) + int(different[0])
            gaps.append(_gap(model, np.concatenate([prompt, expected]), position, actual, decoder))
        else:
            gaps.append(None)
    return gaps


@torch.inference_mode()
def _gap(
    model: torch.nn.Module,
    ids: Int[NDArray[np.int64], " T"],
    position: int,
    actual: NDArray[np.int64],
    decoder: str,
) -> float:
    """Return by how much the model's logits of the two tokens at ``position`` differ."""
    other = int(actual[position - (len(ids) - len(actual))])
    if decoder == "int8":
        backend = decode_backend(model, 1, position)
        backend.reset(0)
        logits = backend.prefill([PrefillChunk(0, ids[:position].tolist(), 0)])[0]
    else:
        logits = model(torch.from_numpy(ids[None, :position]))[0, -1]
    return float(logits[int(ids[position])] - logits[other])


def _compare_tokenizer(source: ExportSource, target: ExportTarget, ids: Ids) -> str:
    if target.encode("") is None:
        return getattr(target, "tokenizer_note", "not part of this format")
    tokenizer = source.tokenizer
    texts = [*TEXTS, *source.run_dir.run.samples.prompts, *(tokenizer.decode(row[1:].tolist()) for row in ids)]
    if tokenizer.chat_template is not None:  # with one, the target reads special tokens in text as such
        texts = [text for text in texts if not any(token in text for token in tokenizer.special_tokens)]
    merged: str = getattr(target, "read_as_space", "")
    for text in [text.replace(merged, "") for text in texts] if merged else texts:
        expected, actual = [prefix_id(tokenizer), *tokenizer.encode(text).tolist()], list(target.encode(text) or ())
        if actual != expected:
            pairs = enumerate(zip(actual, expected, strict=False))
            first = next((i for i, pair in pairs if len(set(pair)) == 2), min(len(actual), len(expected)))
            there = slice(max(first - 2, 0), first + 6)
            return f"differs: {text[:40]!r} is {actual[there]}, not {expected[there]}, from id {there.start} on"
        decoded = target.decode(expected[1:])
        if not is_same_text(tokenizer.decode(expected[1:]), decoded):
            return f"differs: the ids of {text[:40]!r} become {decoded[:40]!r}"
    return f"equal, without {merged}, which it reads as a space" if merged else "equal"
