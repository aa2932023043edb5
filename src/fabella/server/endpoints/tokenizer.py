"""Tokenizer endpoints, named like vLLM's: lm-evaluation-harness and others count tokens with them."""

import asyncio
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from fabella.errors import TokenizerError
from fabella.server.api_error import ApiError
from fabella.server.endpoints.request_body import read_body
from fabella.server.limits import Limits
from fabella.server.requests.json_body import Body, Text, validate
from fabella.server.responses import EOS_TEXT
from fabella.server.served_models import ServedModel, ServedModels
from fabella.tokenizers.tokenizer import Tokenizer


class TokenizeRequest(Body):
    """Body of ``/tokenize``."""

    model: Text = ""
    """Name of the model; empty for the first one."""
    prompt: Text
    """The text."""
    add_special_tokens: bool = True
    """Accepted without effect: the EOS id that precedes every prompt is never part of the answer."""
    return_token_strs: bool = False
    """Return the text of each token as well."""


class DetokenizeRequest(Body):
    """Body of ``/detokenize``."""

    model: Text = ""
    """Name of the model; empty for the first one."""
    tokens: list[Annotated[int, Field(ge=0)]]
    """The token ids."""


class TokenizeEndpoint:
    """POST /tokenize: the token ids of a text."""

    def __init__(self, served: ServedModels, limits: Limits) -> None:
        self._served, self._limits = served, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with ``tokens``, ``count`` and ``max_model_len``, the maximum prompt length in tokens."""
        request = validate(TokenizeRequest, await read_body(scope, receive, self._limits), self._limits)
        model = self._served.find(request.model)
        ids = await asyncio.to_thread(_tokenize, model, request.prompt)
        content: dict[str, Any] = {"count": len(ids), "max_model_len": model.encoder.max_tokens, "tokens": ids}
        if request.return_token_strs:
            content["token_strs"] = [
                model.generator.tokenizer.token_bytes(token).decode(errors="replace") for token in ids
            ]
        await JSONResponse(content)(scope, receive, send)


def _tokenize(model: ServedModel, text: str) -> list[int]:
    """Return the ids of a text. The text of the EOS token alone is that token: clients look up its id in this way."""
    tokenizer = model.generator.tokenizer
    return [tokenizer.eos_id] if text == EOS_TEXT else tokenizer.encode(text).tolist()


class DetokenizeEndpoint:
    """POST /detokenize: the text of token ids."""

    def __init__(self, served: ServedModels, limits: Limits) -> None:
        self._served, self._limits = served, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with ``prompt``. Raises ApiError for an unknown token id."""
        request = validate(DetokenizeRequest, await read_body(scope, receive, self._limits), self._limits)
        tokenizer = self._served.find(request.model).generator.tokenizer
        try:
            text = await asyncio.to_thread(tokenizer.decode, request.tokens)
        except TokenizerError as error:
            raise ApiError(str(error), param="tokens") from None
        await JSONResponse({"prompt": text})(scope, receive, send)


class TokenizerInfoEndpoint:
    """GET /tokenizer_info?model=NAME: the tokenizer of a model; of the first one without a name."""

    def __init__(self, served: ServedModels) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the tokens that are no text, and the chat template."""
        model = self._served.find(Request(scope).query_params.get("model", ""))
        tokenizer = model.generator.tokenizer
        content = {
            "tokenizer_class": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": model.encoder.max_tokens,
            "eos_token": EOS_TEXT,
            "eos_token_id": tokenizer.eos_id,
            "bos_token": _special_token(tokenizer, tokenizer.bos_id),
            "chat_template": tokenizer.chat_template.source if tokenizer.chat_template else None,
        }
        await JSONResponse(content)(scope, receive, send)


def _special_token(tokenizer: Tokenizer, number: int | None) -> str | None:
    return next((token for token, special in tokenizer.special_tokens.items() if special == number), None)
