"""What every request passes before anything else sees it: its host, its origin, its key; and what every answer gets."""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabella.server.api_error import ApiError, request_id
from fabella.server.metrics import Metrics

PUBLIC = ("/", "/healthz", "/page/story.css", "/page/story.js")
"""What is answered without a key: the empty page, which asks for one, and whether the server lives."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_ADDED = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class SecurityMiddleware:
    """Around the whole application."""

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], key: str, routes: Collection[str], metrics: Metrics
    ) -> None:
        """``hosts``: names that the server is known by, besides addresses. ``key``: empty where none is needed."""
        self._app, self._hosts, self._routes, self._metrics = app, {host.lower() for host in hosts}, routes, metrics
        self._key = _digest(key.encode()) if key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = secrets.token_hex(8)
        request_id.set(number)
        path = str(scope["path"])
        route = path if path in self._routes else "other"

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answers[route, message["status"]] += 1
                added = [*_ADDED, (b"x-request-id", number.encode())]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        try:
            self._check(scope, path)
        except ApiError as refusal:
            answer = JSONResponse(refusal.body(), refusal.status, refusal.headers)
            await answer(scope, receive, send_more)
        else:
            await self._app(scope, receive, send_more)

    def _check(self, scope: Scope, path: str) -> None:
        headers = list(scope["headers"])
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._known(hosts[0]):
            message = "This server does not answer to that name. Start it with --allowed-host NAME to let it."
            raise ApiError(message, status=403, code="unknown_host")
        for name, value in headers:
            if name == b"origin" and urlsplit(value.decode("latin-1")).netloc.lower() != hosts[0].lower():
                raise ApiError("Requests of other sites are not answered.", status=403, code="other_origin")
        if self._key and path not in PUBLIC and not self._has_key(headers):
            raise ApiError("Give the server's API key: Authorization: Bearer KEY.", status=401, code="invalid_api_key")

    def _known(self, host: str) -> bool:
        """Addresses are always known: a page of another site reaches us only by a name of its own."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._hosts or _is_address(name)

    def _has_key(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = (given[0] if len(given) == 1 else b"").partition(b" ")
        # Digests are equally long, and compared in constant time.
        return hmac.compare_digest(_digest(key.strip()), self._key) and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
