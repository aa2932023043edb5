"""Tokenizer endpoints answer in vLLM's format."""

from collections.abc import Iterator

import pytest

from tests.server.stubs import InProcess, hashing, served_models


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    with InProcess(served_models(hashing(endless=False))) as app:
        yield app


@pytest.mark.parametrize("text", ["Once", "", "é🐉\n", "a" * 5000])
def test_texts_are_tokenized_and_back(app: InProcess, text: str) -> None:
    answer = app.post("/tokenize", {"prompt": text, "add_special_tokens": False, "return_token_strs": True}).json
    ids = list(text.encode())
    assert (answer["tokens"], answer["count"], answer["max_model_len"]) == (ids, len(ids), 63)
    assert len(answer["token_strs"]) == len(ids)
    assert app.post("/detokenize", {"model": "a", "tokens": ids}).json == {"prompt": text}


def test_the_id_of_the_eos_token_is_that_of_its_text(app: InProcess) -> None:
    info = app.get("/tokenizer_info").json
    assert info["bos_token"] is None
    assert app.post("/tokenize", {"prompt": info["eos_token"]}).json["tokens"] == [info["eos_token_id"]]
    inside = app.post("/tokenize", {"prompt": f"x{info['eos_token']}"}).json["tokens"]
    assert info["eos_token_id"] not in inside, "inside a text, it is text"


def test_wrong_requests_are_refused(app: InProcess) -> None:
    for path, body, param in (
        ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"), ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"), ("/tokenize", {"prompt": "a", "model": "z"}, "model"),
    ):  # fmt: skip
        response = app.post(path, body)
        assert response.status in {400, 404}, (path, body)
        assert response.error["param"] == param
