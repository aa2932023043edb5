"""Bodies of requests, read within limits of size and time."""

import asyncio

from starlette.types import Receive, Scope

from fabella.server.api_error import ApiError
from fabella.server.limits import Limits, set_by

EXAMPLE = """Example: curl ADDRESS/v1/completions -H 'content-type: application/json' -d '{"prompt": "Once"}'"""


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Return the request body; its size is counted while it arrives.

    Raises ApiError: 415 for another media type or a compressed body, 413 for a large one, 408 for a slow one.
    """
    headers = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise ApiError(f"The body must be sent as application/json. {EXAMPLE}", status=415)
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise ApiError("The body must not be compressed.", status=415)
    too_large = ApiError(f"The body is larger than {limits.body_bytes:,} bytes. {set_by('body_bytes')}", status=413)
    if int(headers.get(b"content-length", b"0")) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.receive_timeout_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return b""  # no client reads the response
                body += message.get("body", b"")
                if len(body) > limits.body_bytes:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        seconds = f"{limits.receive_timeout_seconds:g}"
        message = f"The body did not arrive within {seconds} seconds. {set_by('receive_timeout_seconds')}"
        raise ApiError(message, status=408) from None
