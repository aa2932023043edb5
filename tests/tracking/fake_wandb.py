"""Stands in for the package ``wandb``: remembers what it is told, and fails or hangs where it is told to."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class FakeWandb:
    """Put it into ``sys.modules`` as ``wandb``. ``trouble`` maps init, log, log_artifact, finish to what they do."""

    def __init__(self, **trouble: Callable[[], None]) -> None:
        self.trouble = trouble
        self.inits: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.artifacts: list[Any] = []
        self.finished = 0
        self.steps_known = 0
        self.logged_in = True

    def _meet(self, place: str) -> None:
        self.trouble.get(place, lambda: None)()

    def init(self, **options: Any) -> Any:
        self._meet("init")
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
        self._meet("log")
        self.logged.append((step, values))

    def _log_artifact(self, artifact: Any) -> None:
        self._meet("log_artifact")
        self.artifacts.append(artifact)

    def _finish(self) -> None:
        self._meet("finish")
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
    def meet() -> None:
        raise error

    return meet


def after(calls: int, trouble: Callable[[], None]) -> Callable[[], None]:
    """Nothing for the first ``calls`` calls, then ``trouble``."""
    left = [calls]

    def meet() -> None:
        left[0] -= 1
        if left[0] < 0:
            trouble()

    return meet


def hangs(until: threading.Event) -> Callable[[], None]:
    """As long as the test wants it: a service that does not answer."""
    return lambda: (until.wait(), None)[1]
