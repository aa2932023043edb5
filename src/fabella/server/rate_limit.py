"""How often one client may ask for text: a bucket that fills evenly, a request takes one out."""

import ipaddress
import math
import time
from collections.abc import Callable

_KNOWN_AT_MOST = 10_000
"""Clients that are remembered; whoever has not asked for a while is forgotten first"""


class RateLimiter:
    """A bucket for each client, full at first. A client is who the socket says it is, whatever its headers say."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``per_minute``: 0 for no limit; as many may also come at once."""
        self._most, self._clock = per_minute, clock
        self._left: dict[str, tuple[float, float]] = {}
        """What is in a client's bucket, and when that was so; the one that asked last stands last"""

    def take(self, address: str) -> int:
        """0 where the client may ask now, else the seconds until it may."""
        if not self._most:
            return 0
        name, now = _client(address), self._clock()
        left, since = self._left.pop(name, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / 60)
        wait = 0 if left >= 1 else max(1, math.ceil((1 - left) * 60 / self._most))
        self._left[name] = (left if wait else left - 1, now)
        while len(self._left) > _KNOWN_AT_MOST:
            del self._left[next(iter(self._left))]
        return wait


def _client(address: str) -> str:
    """An IPv6 client commands a whole network of 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return found.ipv4_mapped.compressed if found.ipv4_mapped else str(ipaddress.ip_network((found, 64), strict=False))
