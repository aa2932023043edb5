"""Fake worker of a probe, which runs the code of an environment variable instead of training steps."""

import json
import os
import sys
from typing import Any

from fabella.data.child_process import Frame, Handler, serve

CODE = "FAKE_WORKER_CODE"


def open_handler(request: dict[str, Any]) -> Handler:
    """Return a handler that runs the code and returns its ``result``."""

    def handle(_parts: Frame) -> list[bytes]:
        names: dict[str, Any] = {"sys": sys, "result": {}}
        exec(os.environ[CODE], names)
        return [json.dumps(names["result"]).encode()]

    return handle


if __name__ == "__main__":
    serve(open_handler)
