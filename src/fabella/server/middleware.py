"""Security checks before any other code sees a request (host, origin, API key), and headers of every response."""

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

PUBLIC = (
    "/", "/healthz", "/page/story.css", "/page/story.js", "/page/sheet.js", "/page/words.js", "/page/api.js",
)  # fmt: skip
"""Paths that need no key: the page without any content, which asks for the key, and the health check."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class SecurityMiddleware:
    """ASGI middleware that wraps the whole application.

    Starlette's TrustedHostMiddleware does not fit: it cannot allow every IP address, cuts IPv6 addresses at the first
    colon, and answers in plain text.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str], key: str, routes: Collection[str], metrics: Metrics
    ) -> None:
        """``hosts``: accepted host names, besides IP addresses. ``key``: the API key; empty disables the check."""
        self._app, self._hosts, self._routes, self._metrics = app, {host.lower() for host in hosts}, routes, metrics
        self._key = _digest(key.encode()) if key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = secrets.token_hex(8)
        request_id.set(number)
        path = str(scope["path"])
        route = path if path in self._routes else "other"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(route, message["status"]).inc()
                added = [*_RAW_HEADERS, (b"x-request-id", number.encode())]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        try:
            self._check(scope, path)
        except ApiError as error:
            response = JSONResponse(error.body(), error.status, error.headers)
            await response(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _check(self, scope: Scope, path: str) -> None:
        headers = list(scope["headers"])
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            message = "Unknown host name. To allow it, start the server with --allowed-host NAME."
            raise ApiError(message, status=403, code="unknown_host")
        for name, value in headers:
            if name == b"origin" and _netloc(value.decode("latin-1")) != hosts[0].lower():
                raise ApiError("Cross-origin requests are not allowed.", status=403, code="other_origin")
        if self._key and path not in PUBLIC and not self._has_key(headers):
            message = "The API key is missing or wrong. Send the header: Authorization: Bearer KEY."
            raise ApiError(message, status=401, code="invalid_api_key")

    def _is_allowed(self, host: str) -> bool:
        """Allow IP addresses too: DNS rebinding needs a name of the attacking site."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._hosts or _is_address(name)

    def _has_key(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        values = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = (values[0] if len(values) == 1 else b"").partition(b" ")
        # Digests have equal lengths and are compared in constant time.
        return hmac.compare_digest(_digest(key.strip()), self._key) and scheme.lower() == b"bearer"


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
