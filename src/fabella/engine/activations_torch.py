"""Activations of a PyTorch model, read with hooks; activations.py has the names."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fabella.engine.activations import ModelOutput, model_output
from fabella.models.nn.recurrence_torch import MinGRU, candidate_state

MIXERS = ("attention", "mixer")
MLP = "feed_forward"
OPTIONS = ("output_hidden_states", "output_attentions")


def record(model: nn.Module, tokens: Any) -> dict[str, Tensor]:
    """Return the activations of ``model`` for ``tokens`` [B T], with ``logits``."""
    device = next(model.parameters()).device
    with recording(model) as recorded:
        logits = model(torch.as_tensor(tokens, device=device).long())
    return {**recorded, "logits": logits}


@contextmanager
def recording(model: Any) -> Generator[dict[str, Tensor]]:
    """Collect the activations of the calls of ``model`` in the block; a later call replaces those of an earlier one."""
    recorded: dict[str, Tensor] = {}
    with ExitStack() as stack:
        weights = stack.enter_context(_AttentionWeights(recorded))
        for number, block in enumerate(model.blocks):
            name = f"blocks.{number}"
            before = _enter_block(recorded, weights, name, first=number == 0)
            stack.callback(block.register_forward_pre_hook(before).remove)
            for child_name, child in block.named_children():
                if child_name in MIXERS:
                    stack.callback(child.register_forward_hook(_store(recorded, f"{name}.mixer")).remove)
                elif child_name == MLP:
                    stack.callback(child.register_forward_hook(_store(recorded, f"{name}.mlp")).remove)
            for module in block.modules():
                if isinstance(module, MinGRU):
                    _watch_mingru(stack, recorded, name, module)
            stack.callback(block.register_forward_hook(_store(recorded, f"{name}.residual")).remove)
        yield recorded


def accept_output_options(model: nn.Module) -> None:
    """Let calls of ``model`` take ``output_hidden_states`` and ``output_attentions``; they then return a ModelOutput.

    Without these options a call returns logits, as before.
    """
    open_calls: list[tuple[dict[str, bool], ExitStack, dict[str, Tensor]]] = []

    def before(module: nn.Module, arguments: Any, options: dict[str, Any]) -> Any:
        wanted = {name: bool(options.get(name, False)) for name in OPTIONS}
        rest = {name: value for name, value in options.items() if name not in OPTIONS}
        stack = ExitStack()
        recorded = stack.enter_context(recording(module)) if any(wanted.values()) else {}
        open_calls.append((wanted, stack, recorded))
        return arguments, rest

    def after(module: nn.Module, arguments: Any, logits: Any) -> Any:
        wanted, stack, recorded = open_calls.pop()
        stack.close()
        if logits is None or not any(wanted.values()):
            return logits
        output: ModelOutput = model_output(
            {**recorded, "logits": logits},
            hidden_states=wanted["output_hidden_states"],
            attentions=wanted["output_attentions"],
        )
        return output

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after, always_call=True)


class _AttentionWeights(TorchFunctionMode):
    """Compute the weights of every scaled dot-product attention, which itself does not return them."""

    def __init__(self, recorded: dict[str, Tensor]) -> None:
        super().__init__()
        self.recorded = recorded
        self.block = ""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention and self.block:
            self.recorded[f"{self.block}.attention"] = attention_weights(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attention_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(QKᵀ · scale), [B H T S], in float32, with the arguments of ``scaled_dot_product_attention``."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.float() @ key.float().mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(dim=-1)


def _first(output: Any) -> Tensor:
    """Return the output of a module without the state that some return with it."""
    return output[0] if isinstance(output, tuple) else output


def _store(recorded: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor] | None = None) -> Any:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        value = _first(output)
        recorded[name] = change(value) if change else value

    return hook


def _enter_block(recorded: dict[str, Tensor], weights: _AttentionWeights, name: str, *, first: bool) -> Any:
    def hook(module: nn.Module, arguments: Any) -> None:
        weights.block = name
        if first:
            recorded["embedding"] = arguments[0]

    return hook


def _watch_mingru(stack: ExitStack, recorded: dict[str, Tensor], name: str, module: MinGRU) -> None:
    def state(output: nn.Module, arguments: Any) -> None:
        recorded[f"{name}.state"] = arguments[0]

    stack.callback(module.gate.register_forward_hook(_store(recorded, f"{name}.gate", _gate)).remove)
    stack.callback(
        module.candidate.register_forward_hook(_store(recorded, f"{name}.candidate", candidate_state)).remove
    )
    reader = getattr(module, "output_norm", module.output)  # what reads the hidden state
    stack.callback(reader.register_forward_pre_hook(state).remove)


def _gate(logits: Tensor) -> Tensor:
    return logits.float().sigmoid()
