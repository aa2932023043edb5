"""A newer checkpoint for a model that is being served, without a pause: POST /reload with {"model": "name"}."""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from fabella.errors import FabellaError
from fabella.server.api_error import ApiError
from fabella.server.completions import body_of
from fabella.server.json_fields import Fields, parse
from fabella.server.limits import Limits
from fabella.server.served_models import ServedModels


class Reload:
    """Reads the checkpoint that a model was started with (``best``, ``latest``) again, one model at a time.

    Texts that are being told are told to their ends by the model that began them. Where nothing newer can be read,
    everything stays as it was.
    """

    def __init__(self, shelf: ServedModels, limits: Limits) -> None:
        self._shelf, self._limits, self._turn = shelf, limits, asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, once the model is there. Raises Refusal where it is not."""
        fields = Fields(parse(await body_of(scope, receive, self._limits)))
        name = fields.text("model", "")
        fields.finish()
        async with self._turn:
            old = self._shelf.find(name)
            try:
                new = await asyncio.to_thread(old.reloaded)
            except FabellaError as error:
                message = "The checkpoint cannot be read; the model stays as it was. The server's log says why."
                raise ApiError(message, status=500, code="reload_failed") from error
            if new.teller.step < old.teller.step:
                message = f"The newest whole checkpoint is of step {new.teller.step:,}; the model stays as it was."
                raise ApiError(message, status=409, code="reload_failed")
            self._shelf.replace(new)
        await JSONResponse(new.info())(scope, receive, send)
