"""POST /reload with {"model": "name"}: replace a served model by its newest checkpoint without downtime."""

import asyncio

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from fabella.errors import FabellaError
from fabella.server.api_error import ApiError
from fabella.server.endpoints.request_body import read_body
from fabella.server.limits import Limits
from fabella.server.requests.json_body import Body, Text, validate
from fabella.server.served_models import ServedModels


class ReloadRequest(Body):
    """Body of ``/reload``."""

    model: Text = ""
    """Name of the model; empty for the first one."""


class ReloadEndpoint:
    """Loads the checkpoint that a model was started with (``best``, ``latest``) again, one model at a time.

    Running completions finish on the model that started them. If loading fails, the served model is unchanged.
    """

    def __init__(self, served: ServedModels, limits: Limits) -> None:
        self._served, self._limits, self._lock = served, limits, asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the model's info once the new model is served.

        Raises ApiError: 500 if no checkpoint can be loaded, 409 if the newest valid one is older.
        """
        name = validate(ReloadRequest, await read_body(scope, receive, self._limits), self._limits).model
        async with self._lock:
            old = self._served.find(name)
            try:
                new = await asyncio.to_thread(old.reloaded)
            except FabellaError as error:
                message = "Cannot load the checkpoint; the served model is unchanged. The server's log has the cause."
                raise ApiError(message, status=500, code="reload_failed") from error
            if new.generator.step < old.generator.step:
                message = f"The newest valid checkpoint is step {new.generator.step:,}; the served model is unchanged."
                raise ApiError(message, status=409, code="reload_failed")
            self._served.replace(new)
        await JSONResponse(new.info())(scope, receive, send)
