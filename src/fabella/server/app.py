"""The routes of the server."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fabella.server.api_error import ApiError, report
from fabella.server.completions import CompletionEndpoint
from fabella.server.limits import Limits
from fabella.server.metrics import Metrics
from fabella.server.middleware import SecurityMiddleware
from fabella.server.rate_limit import RateLimiter
from fabella.server.reload import Reload
from fabella.server.requests import chat, completion
from fabella.server.responses import ChatFormat, CompletionFormat
from fabella.server.served_models import ServedModels

LOOPBACK_NAMES = ("localhost",)
PAGE = {
    "/": ("story.html", "text/html; charset=utf-8"),
    "/page/story.css": ("story.css", "text/css; charset=utf-8"),
    "/page/story.js": ("story.js", "text/javascript; charset=utf-8"),
}


def application(
    shelf: ServedModels, limits: Limits, *, hosts: Iterable[str] = LOOPBACK_NAMES, key: str = ""
) -> ASGIApp:
    """The whole server; ``hosts``: names it answers to, ``key``: what most routes ask for, empty for nothing."""
    metrics, rate = Metrics(), RateLimiter(limits.requests_per_minute)

    @asynccontextmanager
    async def telling(_: Starlette) -> AsyncGenerator[None]:
        shelf.open(asyncio.get_running_loop())
        try:
            yield
        finally:
            await asyncio.to_thread(shelf.close)

    routes = [
        *_page(),
        *_facts(shelf, metrics),
        Route(
            "/v1/completions",
            CompletionEndpoint(shelf, metrics, limits, rate, read=completion, shape=CompletionFormat),
            methods=["POST"],
        ),
        Route(
            "/v1/chat/completions",
            CompletionEndpoint(shelf, metrics, limits, rate, read=chat, shape=ChatFormat),
            methods=["POST"],
        ),
        Route("/reload", Reload(shelf, limits), methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        lifespan=telling,
        exception_handlers={ApiError: _refused, HTTPException: _no_such, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return SecurityMiddleware(app, hosts=hosts, key=key, routes={route.path for route in routes}, metrics=metrics)


def _page() -> list[Route]:
    def route(path: str, name: str, kind: str) -> Route:
        content = (resources.files("fabella.server") / "page" / name).read_bytes()

        async def file(_: Request) -> Response:
            return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

        return Route(path, file)

    return [route(path, name, kind) for path, (name, kind) in PAGE.items()]


def _facts(shelf: ServedModels, metrics: Metrics) -> list[Route]:
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok" if shelf.alive else "failing"}, 200 if shelf.alive else 503)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model.info() for model in shelf.models.values()]})

    async def model(request: Request) -> Response:
        return JSONResponse(shelf.find(request.path_params["name"]).info())

    async def numbers(_: Request) -> Response:
        tellers = {name: model.scheduler for name, model in shelf.models.items()}
        facts = {
            name: {"tokens_total": one.tokens, "running": one.running, "waiting": one.waiting}
            for name, one in tellers.items()
        }
        return Response(metrics.text(facts), media_type="text/plain; version=0.0.4; charset=utf-8")

    return [
        Route("/healthz", health),
        Route("/metrics", numbers),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
    ]


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    report(error)
    return JSONResponse(error.body(), error.status, error.headers)


async def _no_such(request: Request, error: Exception) -> Response:
    """404 and 405, in the same shape as every other refusal."""
    assert isinstance(error, HTTPException)
    found = "This method is not offered here." if error.status_code == 405 else "There is nothing at this address."
    refusal = ApiError(found, status=error.status_code)
    return JSONResponse(refusal.body(), refusal.status, {**(error.headers or {}), **refusal.headers})


async def _failed(_: Request, error: Exception) -> Response:
    """A bug of ours: its traceback goes to whoever runs the server, and nobody else."""
    return JSONResponse(ApiError("The server failed.", status=500).body(), 500)
