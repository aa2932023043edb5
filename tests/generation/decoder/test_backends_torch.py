"""Tests which backend decodes a model, in training and afterwards, and that float16 and int8 weights are close."""

from typing import Any

import numpy as np
import pytest
import torch

from fabella.errors import ConfigError, UsageError
from fabella.generation.decoder import packed_linear_torch
from fabella.generation.decoder.backends_torch import ModelBackend, compile_decoder, decode_backend
from fabella.generation.decoder.weights import PrefillChunk, WeightDtype, parse_weight_dtype
from fabella.generation.generate_torch import generate
from fabella.generation.sampling import SamplingParams
from fabella.models.registry import family_names
from tests.generation.fake_model import Config, Hashing
from tests.generation.test_generate_torch import complete, untrained

GREEDY = SamplingParams(temperature=0)
PROMPT = [3, 1, 4, 1, 5]
# Relative to the norm of the logits. float16 has eleven bits, bfloat16 eight. With int8, each matrix adds about 3 % of
# noise for rows of 24 numbers, and the noise of the layers adds up.
TOLERANCES = {"float16": 0.005, "bfloat16": 0.04, "int8": 0.2}


def logits_after(model: Any) -> torch.Tensor:
    rows = decode_backend(model, 1, 12)
    with torch.inference_mode():
        rows.reset(0)
        return rows.prefill([PrefillChunk(0, PROMPT, 0)])


@pytest.mark.parametrize("family", family_names())
def test_a_model_in_training_is_decoded_with_its_current_weights(family: str) -> None:
    model = untrained(family)
    assert not isinstance(decode_backend(model, 1, 12), ModelBackend)
    in_training = untrained(family).requires_grad_()
    assert isinstance(decode_backend(in_training, 1, 12), ModelBackend)
    before = complete(in_training, [PROMPT], GREEDY, max_tokens=7)
    assert before == complete(model, [PROMPT], GREEDY, max_tokens=7)
    with torch.no_grad():
        for weight in in_training.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    assert complete(in_training, [PROMPT], GREEDY, max_tokens=7) != before


def test_a_family_without_a_decoder_graph_is_decoded_by_the_model() -> None:
    model = Hashing(Config())
    assert isinstance(decode_backend(model, 1, 12), ModelBackend)
    with pytest.raises(
        ConfigError,
        match="Cannot use int8 weights with family 'stand-in': the decoder does not support",
    ):
        compile_decoder(model, "int8")


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="int8 kernels need x86")
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("weights", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("family", family_names())
def test_smaller_weight_dtypes_give_close_logits(
    family: str, weights: WeightDtype, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear_torch, "MIN_PACKED_SIZE", 0)
    model: Any = untrained(family)
    exact = model(torch.tensor([PROMPT]))[:, -1]
    compile_decoder(model, weights, native=native)
    rounded = logits_after(model)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() / exact.norm() < TOLERANCES[weights]
    prompts = [np.array(PROMPT, dtype=np.int32)]
    steps = generate(model, prompts, GREEDY, rows=[0], max_tokens=5, vocab_size=model.config.vocab_size)
    assert len(list(steps)) == 5


def test_an_unknown_weight_dtype_is_an_error() -> None:
    assert parse_weight_dtype("int8") == "int8"
    with pytest.raises(
        UsageError, match=r"^Unknown weight dtype 'int4'\. Choose from: float32, float16, bfloat16, int8\.$"
    ):
        parse_weight_dtype("int4")
