"""What asks for nothing is accepted in every spelling and changes nothing; all else is refused by name."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fabella.server.requests.neutral_fields import UNSUPPORTED_IN_CHATS, UNSUPPORTED_IN_COMPLETIONS
from tests.server.stubs import CONTEXT, SMALL, InProcess, hashing, served_models

TEXT_BODY = {"prompt": "Once", "max_tokens": 6, "seed": 1}
CHAT_BODY = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 6, "seed": 1}
PATHS = {"/v1/completions": TEXT_BODY, "/v1/chat/completions": CHAT_BODY}

# Values of supported and unsupported fields that mean "no change".
NEUTRAL: list[dict[str, Any]] = [
    *({name: value} for name in ("frequency_penalty", "presence_penalty") for value in (0, 0.0, -0.0, None)),
    *({"repetition_penalty": value} for value in (1, 1.0, None)),
    *({"top_p": value} for value in (1, 1.0, None)), *({"min_p": value} for value in (0, 0.0)),
    *({"top_k": value} for value in (0, -1)), *({"temperature": value} for value in (1, 1.0, None)),
    *({"logit_bias": value} for value in ({}, None, {"5": 0}, {"5": 0.0})),
    *({"stop": value} for value in ([], None, "", [""])), *({"n": value} for value in (1, None)),
    *({"stream_options": value} for value in ({}, None, {"include_usage": False})),
    *({"best_of": value} for value in (1, 1.0, None)), {"suffix": None}, {"suffix": ""},
    *({"tools": value} for value in ([], None)), *({"tool_choice": value} for value in ("auto", "none", None)),
    {"functions": []}, {"function_call": "none"}, {"function_call": "auto"}, {"parallel_tool_calls": True},
    {"parallel_tool_calls": False}, {"response_format": {"type": "text"}}, {"response_format": None},
    {"modalities": ["text"]}, {"audio": None}, {"prediction": None}, {"reasoning_effort": "none"},
    {"verbosity": "medium"}, {"web_search_options": None}, {"user": "me"}, {"metadata": {"a": "b"}}, {"store": False},
    {"service_tier": "auto"}, {"service_tier": "default"}, {"safety_identifier": "x"}, {"prompt_cache_key": "x"},
    {"prompt_cache_retention": "24h"},
    {"ignore_eos": False}, {"min_tokens": 0}, {"min_tokens": 0.0}, {"stop_token_ids": []}, {"length_penalty": 1.0},
    {"skip_special_tokens": True}, {"include_stop_str_in_output": False}, {"use_beam_search": False},
    {"chat_template_kwargs": {}}, {"chat_template_kwargs": {"enable_thinking": False}}, {"guided_json": None},
    {"add_special_tokens": True}, {"prompt_logprobs": None}, {"bad_words": []}, {"allowed_token_ids": None},
    {"repeat_penalty": 1.0}, {"repeat_penalty": 1}, {"cache_prompt": True}, {"cache_prompt": False}, {"mirostat": 0},
    {"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1}, {"tfs_z": 1.0}, {"typical_p": 1}, {"grammar": ""},
    {"n_predict": -1}, {"n_predict": 6}, {"dry_multiplier": 0.0}, {"xtc_probability": 0}, {"top_n_sigma": -1},
    {"n_probs": 0}, {"timings_per_token": False}, {"id_slot": -1}, {"truncate_prompt_tokens": None}, {"echo": False},
    # Whole numbers with a point, and empty objects as PHP writes them.
    {"n": 1.0}, {"max_tokens": 6.0}, {"seed": 1.0}, {"top_k": 0.0}, {"top_k": -1.0}, {"logit_bias": []},
    {"truncate_prompt_tokens": 0.0}, {"logprobs": False},
    # text-generation-webui, OpenRouter, and what belongs to a sampling method that is off.
    {"dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_sequence_breakers": ["\n"]},
    {"xtc_probability": 0, "xtc_threshold": 0.1}, {"dynatemp_range": 0, "dynatemp_exponent": 1},
    {"repeat_last_n": 64}, {"repeat_penalty": 1.0, "repeat_last_n": 64}, {"presence_penalty": 0, "penalty_last_n": 64},
    {"do_sample": True, "num_beams": 1, "penalty_alpha": 0, "no_repeat_ngram_size": 0}, {"guidance_scale": 1.0},
    {"smoothing_factor": 0, "epsilon_cutoff": 0.0, "eta_cutoff": 0, "typical": 1}, {"ban_eos_token": False},
    {"usage": {"include": True}}, {"reasoning": {"effort": "none"}}, {"reasoning": {"enabled": False, "effort": None}},
    {"response_format": {"type": "text", "json_schema": None}}, {"background": False},
    # Other names of supported fields, as text-generation-webui, KoboldCpp and Ollama have them.
    *({name: value} for name in ("n_predict", "num_predict", "max_new_tokens", "max_length") for value in (-1, 6)),
    {"stopping_strings": []}, {"stop": ["@@"], "stopping_strings": ["@@"]}, {"sampler_seed": -1}, {"sampler_seed": 1},
    {"rep_pen": 1, "rep_pen_range": 320, "rep_pen_slope": 0.7}, {"mirostat_mode": 0, "mirostat_tau": 5}, {"skew": 0},
    {"nsigma": 0}, {"top_n_sigma": 0}, {"t_max_predict_ms": -1}, {"n_indent": 0}, {"add_bos_token": True},
    {"dynamic_temperature": False, "dynatemp_low": 1, "dynatemp_high": 1}, {"priority": 0}, {"ttl": 300},
    # The order of the server, with methods that are off; any order if nothing depends on it.
    {"sampler_order": [6, 5, 0, 1, 3, 4, 2], "top_k": 0}, {"sampler_order": [6, 0, 1, 3, 4, 2, 5]},
    {"sampler_priority": ["dry", "temperature", "top_k"]}, {"sampler_priority": "top_k\ntemperature"},
    {"continue_final_message": False},
    # Fields that nobody knows, but that ask for nothing.
    {"my_extension": None}, {"my_extension": {}}, {"my_extension": []}, {"my_extension": ""},
]  # fmt: skip


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    with InProcess(served_models(hashing())) as app:
        yield app


@pytest.fixture(scope="module")
def plain(app: InProcess) -> dict[str, Any]:
    """Answers without any further field."""
    return {path: app.post(path, body).json["choices"] for path, body in PATHS.items()}


@pytest.mark.fault("I8", cases=2 * len(NEUTRAL))
def test_a_neutral_value_changes_nothing(app: InProcess, plain: dict[str, Any]) -> None:
    for path, body in PATHS.items():
        for more in NEUTRAL:
            response = app.post(path, {**body, **more})
            assert response.status == 200, (path, more, response.body)
            assert response.json["choices"] == plain[path], (path, more)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/completions", {"n": 3, "best_of": 3}), ("/v1/completions", {"n": 3, "best_of": 1}),
        ("/v1/completions", {"max_completion_tokens": 6}), ("/v1/completions", {"logprobs": 2, "top_logprobs": 2}),
        ("/v1/completions", {"repetition_penalty": 1.2, "repeat_penalty": 1.2}),
        ("/v1/chat/completions", {"max_completion_tokens": 6}), ("/v1/chat/completions", {"logprobs": False}),
        ("/v1/chat/completions", {"logprobs": False, "top_logprobs": 0}),
        ("/v1/chat/completions", {"logprobs": None, "top_logprobs": None}),
    ],
)  # fmt: skip
def test_a_value_may_repeat_another_field_of_the_request(app: InProcess, path: str, more: dict[str, Any]) -> None:
    response = app.post(path, {**PATHS[path], **more})
    assert response.status == 200, response.body


# Values that would change the answer.
ASKING: list[dict[str, Any]] = [
    {"best_of": 4}, {"suffix": "end"}, {"tools": [{}]}, {"tool_choice": "required"}, {"functions": [{}]},
    {"function_call": {"name": "f"}}, {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {}}}, {"modalities": ["text", "audio"]},
    {"audio": {"voice": "a"}}, {"reasoning_effort": "high"}, {"verbosity": "low"}, {"web_search_options": {}},
    {"ignore_eos": True}, {"min_tokens": 3}, {"stop_token_ids": [5]}, {"skip_special_tokens": False},
    {"include_stop_str_in_output": True}, {"chat_template_kwargs": {"enable_thinking": True}},
    {"guided_json": {"type": "object"}}, {"prompt_logprobs": 0}, {"repeat_penalty": 1.1}, {"mirostat": 2},
    {"grammar": "root ::= 'a'"}, {"n_predict": 7}, {"dry_multiplier": 0.8}, {"min_tokens": False}, {"mirostat": False},
    {"ignore_eos": 0}, {"do_sample": False}, {"num_beams": 2}, {"reasoning": {"effort": "low"}},
    {"ban_eos_token": True}, {"repeat_last_n": 64, "presence_penalty": 0.5},
    {"penalty_last_n": 64, "repetition_penalty": 1.1},
    {"smoothing_factor": 0.2}, {"background": True}, {"store": True}, {"service_tier": "flex"}, {"priority": 1},
    {"max_new_tokens": 7}, {"stopping_strings": ["a"]}, {"sampler_seed": 2}, {"rep_pen": 1.1}, {"mirostat_mode": 2},
    {"sampler_order": [6, 0, 1, 3, 4, 2, 5], "top_k": 40}, {"sampler_order": [6, 5, 2, 0], "top_p": 0.9},
    {"sampler_order": 6, "min_p": 0.1}, {"sampler_order": [True, 5], "min_p": 0.1},
    {"sampler_order": [[6]], "top_k": 9},
    {"sampler_priority": ["temperature", "presence_penalty"], "presence_penalty": 0.5},
    {"sampler_priority": "top_k\ntemperature", "top_k": 40}, {"continue_final_message": True},
    {"top_n_sigma": 1}, {"t_max_predict_ms": 5}, {"add_bos_token": False},
]  # fmt: skip


def test_the_own_order_of_sampling_is_accepted_where_it_matters(app: InProcess) -> None:
    more: dict[str, Any] = {"top_k": 40, "top_p": 0.9, "frequency_penalty": 0.5}
    plain = app.post("/v1/completions", {**TEXT_BODY, **more}).json["choices"]
    for name, order in (
        ("sampler_order", [6, 5, 0, 1, 3, 4, 2]),
        ("sampler_priority", ["repetition_penalty", "presence_penalty", "frequency_penalty", "temperature", "top_p"]),
        ("sampler_priority", "presence_penalty\nfrequency_penalty\ndry\ntemperature\ntop_k\ntop_p\nmin_p"),
    ):
        assert app.post("/v1/completions", {**TEXT_BODY, **more, name: order}).json["choices"] == plain


@pytest.mark.fault("I8", cases=2 * len(ASKING))
def test_a_value_that_changes_the_answer_is_refused_by_name(app: InProcess) -> None:
    for path, body in PATHS.items():
        for more in ASKING:
            response, name = app.post(path, {**body, **more}), next(iter(more))
            assert response.status == 400, (path, more, response.body)
            assert (response.error["param"], response.error["code"]) == (name, "unsupported_parameter")
            assert response.error["message"].startswith(f"{name} is not supported. ")


def test_special_tokens_start_every_prompt(app: InProcess) -> None:
    """In a chat the template writes them, and clients of vLLM then send false."""
    response = app.post("/v1/completions", {**TEXT_BODY, "add_special_tokens": False})
    assert (response.status, response.error["param"]) == (400, "add_special_tokens")
    assert app.post("/v1/chat/completions", {**CHAT_BODY, "add_special_tokens": False}).status == 200


NO_MAXIMUM = [
    ("/v1/completions", "max_tokens"), ("/v1/chat/completions", "max_tokens"),
    ("/v1/chat/completions", "max_completion_tokens"), ("/v1/completions", "n_predict"),
    ("/v1/chat/completions", "max_new_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name"), NO_MAXIMUM)
@pytest.mark.parametrize("value", [-1, -1.0])
def test_a_maximum_of_minus_1_fills_the_context_or_reaches_the_limit_of_the_server(
    path: str, name: str, value: float
) -> None:
    limits = replace(SMALL, max_tokens=300)
    body = {**PATHS[path], name: value}
    if name != "max_tokens":
        body.pop("max_tokens")
    with InProcess(served_models(hashing(), hashing(endless=False), limits=limits), limits) as app:
        unlimited = app.post(path, body).json
        assert unlimited["usage"]["completion_tokens"] == 300
        filled = app.post(path, {**body, "model": "b"}).json
        assert filled["usage"]["completion_tokens"] == CONTEXT - len("Once") - 1, "1: the token before the document"
        assert {choice["finish_reason"] for choice in unlimited["choices"] + filled["choices"]} == {"length"}


def test_a_full_prompt_without_a_maximum_gets_one_token() -> None:
    with InProcess(served_models(hashing(endless=False))) as app:
        response = app.post("/v1/completions", {"prompt": "a" * (CONTEXT - 1), "max_tokens": -1})
        assert response.json["usage"]["completion_tokens"] == 1


def test_a_maximum_of_minus_1_and_a_number_contradict_each_other(app: InProcess) -> None:
    response = app.post("/v1/chat/completions", {**CHAT_BODY, "max_tokens": -1, "max_completion_tokens": 5})
    assert "max_tokens and max_completion_tokens differ" in response.error["message"]


def test_a_seed_of_minus_1_draws_one_each_time(app: InProcess) -> None:
    for path, body in PATHS.items():
        answers = {json.dumps(app.post(path, {**body, "seed": -1}).json["choices"]) for _ in range(4)}
        assert len(answers) > 1, path


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/completions", {"messages": [{"role": "user"}]}), ("/v1/chat/completions", {"prompt": "a"}),
        ("/v1/completions", {"max_completion_tokens": 7}), ("/v1/completions", {"top_logprobs": 2}),
        ("/v1/chat/completions", {"echo": True}), ("/v1/completions", {"max_token": 5}),
        ("/v1/chat/completions", {"max_completion_tokens": 7}),
    ],
)  # fmt: skip
def test_a_field_of_the_other_endpoint_is_refused_by_name(app: InProcess, path: str, more: dict[str, Any]) -> None:
    response = app.post(path, {**PATHS[path], **more})
    assert response.status == 400, response.body
    assert response.error["param"] == next(iter(more))


def test_every_hint_is_a_sentence() -> None:
    for fields in (UNSUPPORTED_IN_CHATS, UNSUPPORTED_IN_COMPLETIONS):
        for name, field in fields.items():
            assert not field.hint or (field.hint[0].isupper() and field.hint.endswith(".")), name


RECORDED = Path(__file__).with_name("client_requests.json")
CLIENT_REQUESTS: list[dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.fault("I8", cases=len(CLIENT_REQUESTS))
def test_requests_that_clients_really_send_are_answered(app: InProcess) -> None:
    """``make test-clients`` records them. Here the model has another name and its context no limit."""
    assert len({request["client"] for request in CLIENT_REQUESTS}) >= 5
    for request in CLIENT_REQUESTS:
        body = {**request["body"], "model": "a"}
        if isinstance(body.get("max_tokens"), int):
            body["max_tokens"] = min(body["max_tokens"], SMALL.max_tokens)
        response = app.post(request["path"], body)
        # Prompts that are too long for the model of the record are answered here.
        expected = {200, request["status"]} if "x" * 500 in json.dumps(body) else {request["status"]}
        assert response.status in expected, (request["client"], body, response.body)
