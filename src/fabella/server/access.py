"""Who may use a server: host names, origins of web pages, and the API key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fabella.errors import UsageError

LOOPBACK_NAMES = ("localhost",)
_HOST_HEADER = re.compile(r"([A-Za-z0-9.-]{1,253})(?::[0-9]{1,5})?")
_ORIGIN_HEADER = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,253}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the server."""

    hosts: Sequence[str] = LOOPBACK_NAMES
    """Accepted host names, besides IP addresses."""
    origins: Sequence[str] = ()
    """Other origins whose pages may send requests, as browsers write them: ``http://localhost:3000``."""
    key: str = ""
    """The API key; empty disables the check."""


def require_origins(origins: Sequence[str]) -> list[str]:
    """Return origins as browsers write them. Raises UsageError for anything but ``http(s)://HOST[:PORT]``."""
    return [_normalized(origin) for origin in origins]


def option_for_host(host: str) -> str:
    """Return the option that allows a host name, as requests send it; with a placeholder for what is no name."""
    name = _HOST_HEADER.fullmatch(host)
    return f"--allowed-host {name[1] if name else 'NAME'}"


def option_for_origin(origin: str) -> str:
    """Return the option that allows an origin, as requests send it; with a placeholder for what is no origin."""
    try:
        allowed = _normalized(origin) if _ORIGIN_HEADER.fullmatch(origin) else "http://HOST:PORT"
    except UsageError:
        allowed = "http://HOST:PORT"
    return f"--allowed-origin {allowed}"


def _normalized(origin: str) -> str:
    try:
        parts = urlsplit(origin.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    is_origin = parts.scheme in _DEFAULT_PORTS and host and parts.path in {"", "/"} and "@" not in parts.netloc
    if not is_origin or parts.query or parts.fragment or "*" in host:
        raise UsageError(
            f"Cannot use the origin {origin!r}.",
            hint="Write it as http://HOST:PORT or https://HOST, e.g. --allowed-origin http://localhost:3000.",
        )
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{port}")
