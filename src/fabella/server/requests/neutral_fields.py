"""Fields that Fabella does not support, with the values that ask for nothing: clients send many of them unasked.

A field that asks for something is refused by name instead of being ignored. The names are those of OpenAI's API, and
of other servers that the same clients talk to: vLLM, llama.cpp, text-generation-webui, OpenRouter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupportedField:
    """Field that is accepted only with a value that does not change the answer."""

    neutral: tuple[object, ...] = ()
    """Values that ask for nothing, besides null and an empty string, list or object. 0 includes 0.0."""
    same_as: str = ""
    """Name of a field whose value this one may repeat."""
    default: object = None
    """Value of the field ``same_as`` if the request does not have it."""
    any_value: bool = False
    """True for a field that never changes the answer."""
    accepts_empty: bool = True
    """False if an empty value asks for something."""
    without: tuple[str, ...] = ()
    """Fields that this one depends on: without them, or with 0, 1 or null, any value changes nothing."""
    order: Mapping[object, int] = field(default_factory=dict[object, int])
    """Sampling method → its place among those of the server: a list of methods in this order changes nothing."""
    hint: str = ""
    """What to do instead; empty for: leave it out."""


def asks_for_nothing(unsupported: UnsupportedField, name: str, body: Mapping[str, object]) -> bool:
    """Return whether the value of the field ``name`` leaves the answer unchanged."""
    value = body[name]
    if unsupported.any_value or any(_equal(value, neutral) for neutral in unsupported.neutral):
        return True
    if unsupported.same_as and _equal(value, body.get(unsupported.same_as, unsupported.default)):
        return True
    if unsupported.without and not any(_asks(body.get(name)) for name in unsupported.without):
        return True
    if unsupported.order and _in_order(value, unsupported.order):
        return True
    return unsupported.accepts_empty and is_empty(value)


def _asks(value: object) -> bool:
    """Return whether a penalty or a filter has an effect: as an addend 0 has none, as a factor or a share 1."""
    return not any(_equal(value, neutral) for neutral in (None, 0, 1))


def _in_order(value: object, order: Mapping[object, int]) -> bool:
    """Return whether a list, or lines, of sampling methods names those of the server in its order; others are off."""
    methods = value.split() if isinstance(value, str) else value
    if not isinstance(methods, list):
        return False
    methods = cast("list[object]", methods)
    if any(isinstance(method, bool) or not isinstance(method, str | int) for method in methods):
        return False
    places = [order[method] for method in methods if method in order]
    return bool(places) and places == sorted(places)


def is_empty(value: object) -> bool:
    """Return whether a value is null or an empty string, list or object."""
    return value is None or value == "" or value == [] or value == {}


def _equal(value: object, other: object) -> bool:
    """Compare JSON values: 0 equals 0.0, but not false; in an object, null is a missing key."""
    if isinstance(value, dict):
        value = {name: inner for name, inner in cast("dict[str, object]", value).items() if inner is not None}
    return isinstance(value, bool) == isinstance(other, bool) and value == other


_NO_EFFECT = UnsupportedField(any_value=True)
_EMPTY = UnsupportedField()
_OFF = UnsupportedField(neutral=(False,))
_ZERO = UnsupportedField(neutral=(0,))
_ONE = UnsupportedField(neutral=(1,))
OTHER_MAXIMA = ("n_predict", "num_predict", "max_new_tokens", "max_length")
"""Names of max_tokens in the APIs of llama.cpp, Ollama, text-generation-webui and KoboldCpp."""
_MAX_TOKENS = UnsupportedField(neutral=(-1,), same_as="max_tokens", hint="Use max_tokens.")
_REPETITION_PENALTY = UnsupportedField(neutral=(1,), same_as="repetition_penalty", hint="Use repetition_penalty.")
_TEXT_ONLY = "The models write plain text."
_STARTS = "Every prompt starts a document; leave it out."

_OPENAI = {
    # Labels, caching, and a rule for tools, of which there are none: no effect on the answer.
    **dict.fromkeys(
        ("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
         "prompt_cache_options", "parallel_tool_calls", "prediction"), _NO_EFFECT,
    ),
    "store": UnsupportedField(neutral=(False,), hint="The server stores no answers; leave it out."),
    "service_tier": UnsupportedField(neutral=("auto", "default")),
    "tools": UnsupportedField(hint="The models cannot call tools; leave it out."),
    "tool_choice": UnsupportedField(neutral=("none", "auto"), hint="The models cannot call tools; leave it out."),
    "functions": UnsupportedField(hint="The models cannot call functions; leave it out."),
    "function_call": UnsupportedField(neutral=("none", "auto"), hint="The models cannot call functions."),
    "response_format": UnsupportedField(neutral=({"type": "text"},), hint=f"{_TEXT_ONLY} Use {{'type': 'text'}}."),
    "modalities": UnsupportedField(neutral=(["text"],), hint=_TEXT_ONLY),
    "audio": UnsupportedField(hint=_TEXT_ONLY),
    "reasoning_effort": UnsupportedField(neutral=("none",)),
    "verbosity": UnsupportedField(neutral=("medium",)),
    "web_search_options": UnsupportedField(accepts_empty=False),
}  # fmt: skip
_VLLM = {
    **dict.fromkeys(
        ("spaces_between_special_tokens", "request_id", "cache_salt"), _NO_EFFECT,
    ),
    **dict.fromkeys(
        ("ignore_eos", "use_beam_search", "early_stopping", "include_stop_str_in_output", "return_token_ids",
         "return_tokens_as_token_ids", "include_reasoning", "continue_final_message"), _OFF,
    ),
    **dict.fromkeys(
        ("stop_token_ids", "allowed_token_ids", "bad_words", "logits_processors", "guided_json", "guided_regex",
         "guided_choice", "guided_grammar", "structured_outputs", "chat_template", "documents", "prompt_logprobs"),
        _EMPTY,
    ),
    **dict.fromkeys(("min_tokens", "priority"), _ZERO),
    "length_penalty": _ONE,
    "skip_special_tokens": UnsupportedField(neutral=(True,)),
    "detokenize": UnsupportedField(neutral=(True,)),
    "add_generation_prompt": UnsupportedField(neutral=(True,)),
    "chat_template_kwargs": UnsupportedField(neutral=({"enable_thinking": False}, {"thinking": False})),
    "thinking": UnsupportedField(neutral=({"type": "disabled"}, False)),
    "enable_thinking": _OFF,
}  # fmt: skip
_LLAMA_CPP = {
    **dict.fromkeys(("cache_prompt", "id_slot", "slot_id", "keep_alive", "mirostat_tau", "mirostat_eta"), _NO_EFFECT),
    **dict.fromkeys(
        ("penalize_nl", "timings_per_token", "return_progress", "return_tokens", "post_sampling_probs"), _OFF
    ),
    **dict.fromkeys(
        ("mirostat", "dynatemp_range", "xtc_probability", "dry_multiplier", "top_a", "n_keep", "n_probs", "min_keep",
         "n_indent"), _ZERO,
    ),
    **dict.fromkeys(("typical_p", "tfs_z"), _ONE),
    **dict.fromkeys(("top_n_sigma", "nsigma"), UnsupportedField(neutral=(-1, 0))),
    "t_max_predict_ms": UnsupportedField(neutral=(-1, 0)),
    **dict.fromkeys(("grammar", "json_schema", "samplers"), _EMPTY),
    **dict.fromkeys(("repeat_penalty", "rep_pen"), _REPETITION_PENALTY),
}  # fmt: skip
# The order in docs/guide-serve.md, with the names of text-generation-webui and the numbers of KoboldCpp. It matters to
# requests that cut, or that add to logits.
_PRIORITY: Mapping[object, int] = {
    "repetition_penalty": 0, "frequency_penalty": 1, "presence_penalty": 1, "temperature": 2, "top_k": 3, "top_p": 4,
    "min_p": 5,
}  # fmt: skip
_NUMBERS: Mapping[object, int] = {6: 0, 5: 2, 0: 3, 2: 4}
_ORDER_MATTERS = ("top_k", "top_p", "min_p", "frequency_penalty", "presence_penalty")
_ORDER_HINT = "The order is fixed: penalties, temperature, top_k, top_p, min_p; leave it out."
_PENALTIES = ("repetition_penalty", "repeat_penalty", "rep_pen", "frequency_penalty", "presence_penalty")
_OTHERS = {
    # Parameters of a sampling method whose own field must be off, and accounting.
    **dict.fromkeys(
        ("dry_base", "dry_allowed_length", "dry_sequence_breakers", "dry_penalty_last_n", "xtc_threshold",
         "dynatemp_exponent", "dynatemp_low", "dynatemp_high", "smoothing_curve", "use_cache",
         "usage", "route", "provider", "transforms", "ttl"), _NO_EFFECT,
    ),
    **dict.fromkeys(
        ("smoothing_factor", "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size", "penalty_alpha", "min_length",
         "truncation_length", "mirostat_mode", "skew", "repetition_decay", "max_tokens_second"), _ZERO,
    ),
    **dict.fromkeys(("num_beams", "encoder_repetition_penalty", "guidance_scale", "typical", "tfs"), _ONE),
    **dict.fromkeys(("ban_eos_token", "temperature_last", "dynamic_temperature", "watermark", "background"), _OFF),
    **dict.fromkeys(
        ("repeat_last_n", "penalty_last_n", "repetition_penalty_range", "repetition_context_size", "rep_pen_range",
         "rep_pen_slope"),
        UnsupportedField(without=_PENALTIES, hint="Penalties count all tokens of the completion; leave it out."),
    ),
    "sampler_priority": UnsupportedField(order=_PRIORITY, without=_ORDER_MATTERS, hint=_ORDER_HINT),
    "sampler_order": UnsupportedField(order=_NUMBERS, without=_ORDER_MATTERS, hint=_ORDER_HINT),
    **dict.fromkeys(OTHER_MAXIMA, _MAX_TOKENS),
    "stopping_strings": UnsupportedField(same_as="stop", hint="Use stop."),
    "sampler_seed": UnsupportedField(neutral=(-1,), same_as="seed", hint="Use seed."),
    "add_bos_token": UnsupportedField(neutral=(True,), hint=_STARTS),
    "do_sample": UnsupportedField(neutral=(True,), hint="Use a temperature of 0."),
    "reasoning": UnsupportedField(neutral=({"effort": "none"}, {"enabled": False}, {"exclude": True})),
}  # fmt: skip
_SHARED: Mapping[str, UnsupportedField] = {**_OPENAI, **_VLLM, **_LLAMA_CPP, **_OTHERS}

UNSUPPORTED_IN_COMPLETIONS: Mapping[str, UnsupportedField] = {
    **_SHARED,
    "add_special_tokens": UnsupportedField(neutral=(True,), hint=_STARTS),
    "suffix": UnsupportedField(hint="The models continue a prompt; leave it out."),
    "best_of": UnsupportedField(neutral=(1,), same_as="n", default=1, hint="Use n, and choose by the logprobs."),
    "max_completion_tokens": UnsupportedField(same_as="max_tokens", hint="Use max_tokens."),
    "top_logprobs": UnsupportedField(neutral=(0,), same_as="logprobs", hint="Use logprobs, a number."),
    "messages": UnsupportedField(hint="Send a prompt, or use /v1/chat/completions."),
}
UNSUPPORTED_IN_CHATS: Mapping[str, UnsupportedField] = {
    **_SHARED,
    "add_special_tokens": _NO_EFFECT,  # the chat template writes them
    "echo": UnsupportedField(neutral=(False,), hint="Use /v1/completions."),
    "suffix": UnsupportedField(hint="The models continue the messages; leave it out."),
    "best_of": UnsupportedField(neutral=(1,), same_as="n", default=1, hint="Use n, and choose by the logprobs."),
    "prompt": UnsupportedField(hint="Send messages, or use /v1/completions."),
}
