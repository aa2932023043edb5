"""Routes of the server."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fabella.server.access import Access
from fabella.server.api_error import ApiError, log_server_error
from fabella.server.endpoints.addresses import method_not_allowed, not_found
from fabella.server.endpoints.completions import CompletionEndpoint
from fabella.server.endpoints.reload import ReloadEndpoint
from fabella.server.endpoints.tokenizer import DetokenizeEndpoint, TokenizeEndpoint, TokenizerInfoEndpoint
from fabella.server.limits import Limits
from fabella.server.metrics import CONTENT_TYPE, Metrics
from fabella.server.middleware import secured
from fabella.server.requests.schema import ChatRequest, CompletionRequest
from fabella.server.responses import ChatFormat, CompletionFormat
from fabella.server.served_models import ServedModels

SCRIPTS = ("story.js", "sheet.js", "words.js", "api.js")
PAGE = {
    "/": ("story.html", "text/html; charset=utf-8"),
    "/page/story.css": ("story.css", "text/css; charset=utf-8"),
    **{f"/page/{name}": (name, "text/javascript; charset=utf-8") for name in SCRIPTS},
}
"""Path of each file of the story page: its name and media type."""


def application(served: ServedModels, limits: Limits, access: Access | None = None) -> ASGIApp:
    """Build the ASGI application; by default, only this machine may use it, without a key."""
    metrics = Metrics(served)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        served.open(asyncio.get_running_loop())
        try:
            yield
        finally:
            await asyncio.to_thread(served.close)

    completions = CompletionEndpoint(served, metrics, limits, CompletionRequest, CompletionFormat)
    chat_completions = CompletionEndpoint(served, metrics, limits, ChatRequest, ChatFormat)
    routes = [
        *_page_routes(),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        *_info_routes(served, metrics),
        Route("/tokenize", TokenizeEndpoint(served, limits), methods=["POST"]),
        Route("/detokenize", DetokenizeEndpoint(served, limits), methods=["POST"]),
        Route("/tokenizer_info", TokenizerInfoEndpoint(served), methods=["GET"]),
        Route("/reload", ReloadEndpoint(served, limits), methods=["POST"]),
    ]

    async def on_http_error(request: Request, error: Exception) -> Response:
        """Answer 404 and 405 in the format of all other errors."""
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow", "")
            api_error = method_not_allowed(request.method, allowed)
        else:
            api_error = not_found(request.url.path, routes)
        return JSONResponse(api_error.body(), api_error.status, {**(error.headers or {}), **api_error.headers})

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={ApiError: _on_api_error, HTTPException: on_http_error, Exception: _on_bug},
    )
    app.router.redirect_slashes = False
    paths = {route.path for route in routes}
    return secured(app, access or Access(), routes=paths, metrics=metrics)


def _page_routes() -> list[Route]:
    def route(path: str, name: str, media_type: str) -> Route:
        content = (resources.files("fabella.server") / "page" / name).read_bytes()

        async def file(_: Request) -> Response:
            return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

        return Route(path, file)

    return [route(path, name, media_type) for path, (name, media_type) in PAGE.items()]


def _info_routes(served: ServedModels, metrics: Metrics) -> list[Route]:
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok" if served.alive else "failing"}, 200 if served.alive else 503)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model.info() for model in served.models.values()]})

    async def model(request: Request) -> Response:
        return JSONResponse(served.find(request.path_params["name"]).info())

    async def prometheus(_: Request) -> Response:
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE})

    return [
        Route("/healthz", health),
        Route("/metrics", prometheus),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
    ]


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    log_server_error(error)
    return JSONResponse(error.body(), error.status, error.headers)


async def _on_bug(_: Request, error: Exception) -> Response:
    """Answer 500 without details; starlette raises the exception again, so that its traceback is logged."""
    return JSONResponse(ApiError("Internal server error.", status=500).body(), 500)
