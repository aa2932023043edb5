"""Fake ``wandb`` package that records calls, and fails or hangs on request."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class FakeWandb:
    """Fake module for ``sys.modules["wandb"]``. ``failures``: init, log, log_artifact or finish → side effect."""

    def __init__(self, **trouble: Callable[[], None]) -> None:
        self.failures = trouble
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.artifacts: list[Any] = []
        self.finished = 0
        self.steps_known = 0
        self.logged_in = True

    def _trigger(self, call: str) -> None:
        self.failures.get(call, lambda: None)()

    def init(self, **options: Any) -> Any:
        self._trigger("init")
        self.inits.append(options)
        return SimpleNamespace(
            disabled=not self.logged_in,
            resumed=self.steps_known > 0,
            step=self.steps_known,
            url="https://example.org/run",
            log=self._log,
            log_artifact=self._log_artifact,
            finish=self._finish,
        )

    def _log(self, values: dict[str, Any], *, step: int) -> None:
        self._trigger("log")
        self.logged.append((step, values))

    def _log_artifact(self, artifact: Any) -> None:
        self._trigger("log_artifact")
        self.artifacts.append(artifact)

    def _finish(self) -> None:
        self._trigger("finish")
        self.finished += 1

    def Settings(self, **options: Any) -> dict[str, Any]:  # noqa: N802 - the package's name
        return options

    def Histogram(self, *, np_histogram: Any) -> Any:  # noqa: N802
        return ("histogram", np_histogram)

    def Artifact(self, name: str, type: str, metadata: Any) -> "FakeArtifact":  # noqa: A002, N802
        return FakeArtifact(name, type, metadata)


class FakeArtifact:
    def __init__(self, name: str, kind: str, metadata: Any) -> None:
        self.name, self.kind, self.metadata, self.files = name, kind, metadata, list[str]()

    def add_file(self, path: str) -> None:
        self.files.append(path)

    def add_dir(self, path: str, name: str) -> None:
        self.files.append(path)


def raises(error: BaseException) -> Callable[[], None]:
    def trigger() -> None:
        raise error

    return trigger


def after(calls: int, trouble: Callable[[], None]) -> Callable[[], None]:
    """Return a function that does nothing at its first ``calls`` calls, and then calls ``failure``."""
    remaining = [calls]

    def trigger() -> None:
        remaining[0] -= 1
        if remaining[0] < 0:
            trouble()

    return trigger


def hangs(until: threading.Event) -> Callable[[], None]:
    """Return a function that blocks until the event is set, like a server that does not respond."""
    return lambda: (until.wait(), None)[1]
