"""Security checks before any other code sees a request (host, origin, API key), and headers of every response.

A request passes through three layers: ``SecurityMiddleware`` checks host and origin, Starlette's ``CORSMiddleware``
answers preflight requests of allowed origins, and ``KeyMiddleware`` checks the API key. The answer to a wrong key
therefore has the headers without which a browser hides it from the page.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Collection, Iterable
from urllib.parse import unquote, urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabella.server.access import Access, option_for_host, option_for_origin
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


PREFLIGHT_SECONDS = 600
"""Time for which a browser may keep the answer to a preflight request."""
EXPOSED = ("x-request-id", "retry-after", "x-fabella-dropped-messages")
"""Headers of a response that a page of an allowed origin can read."""


def secured(app: ASGIApp, access: Access, *, routes: Collection[str], metrics: Metrics) -> ASGIApp:
    """Wrap an application in all checks. ``routes``: paths that metrics count by name."""
    checked = KeyMiddleware(app, access.key) if access.key else app
    if access.origins:
        checked = CORSMiddleware(
            checked,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_SECONDS,
        )
    return SecurityMiddleware(checked, access, routes=routes, metrics=metrics)


def with_path_of_target(scope: Scope) -> Scope:
    """Return a request whose target is a whole address, as proxies send it, with the path and the host of the address.

    The host of the target counts, not the header (RFC 9112, section 3.2.2). Other requests are returned as they are.
    """
    if not str(scope["path"]).lower().startswith(("http://", "https://")):
        return scope
    _, _, rest = scope["raw_path"].partition(b"://")
    host, slash, path = rest.partition(b"/")
    headers = [(name, host if name == b"host" else value) for name, value in scope["headers"]]
    return {
        **scope,
        "path": unquote((slash + path).decode("ascii")) or "/",
        "raw_path": slash + path,
        "headers": headers,
    }


class SecurityMiddleware:
    """ASGI middleware that wraps the whole application.

    Starlette's TrustedHostMiddleware does not fit: it cannot allow every IP address, cuts IPv6 addresses at the first
    colon, and answers in plain text.
    """

    def __init__(self, app: ASGIApp, access: Access, *, routes: Collection[str], metrics: Metrics) -> None:
        self._app, self._routes, self._metrics = app, routes, metrics
        self._hosts, self._origins = {host.lower() for host in access.hosts}, frozenset(access.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = with_path_of_target(scope)
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
            self._check(scope)
        except ApiError as error:
            response = JSONResponse(error.body(), error.status, error.headers)
            await response(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        headers = list(scope["headers"])
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            shown = option_for_host(hosts[0] if len(hosts) == 1 else "")
            message = f"Unknown host name. To allow it, start the server with {shown}."
            raise ApiError(message, status=403, code="unknown_host")
        for name, value in headers:
            if name == b"origin" and not self._is_allowed_origin(value.decode("latin-1"), hosts[0]):
                message = "Cross-origin requests are not allowed. To allow them for a page, start the server with"
                option = option_for_origin(value.decode("latin-1"))
                raise ApiError(f"{message} {option}.", status=403, code="other_origin")
        names = {name for name, _ in headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            # RFC 9112, 6.1: the two may disagree, and a proxy in front may have believed the other one.
            message = "A request must not have both Content-Length and Transfer-Encoding."
            raise ApiError(message, code="ambiguous_length", closes=True)

    def _is_allowed_origin(self, origin: str, host: str) -> bool:
        return origin in self._origins or _netloc(origin) == host.lower()

    def _is_allowed(self, host: str) -> bool:
        """Allow IP addresses too: DNS rebinding needs a name of the attacking site."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._hosts or _is_address(name)


class KeyMiddleware:
    """ASGI middleware that answers 401 without the API key, except for public paths."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with an error."""
        if scope["type"] != "http" or str(scope["path"]) in PUBLIC or self._has_key(scope["headers"]):
            await self._app(scope, receive, send)
            return
        message = "Incorrect API key provided, or none. Send the header: Authorization: Bearer KEY."
        error = ApiError(message, status=401, code="invalid_api_key")
        await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)

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
