"""What the server has done, in the text format that Prometheus reads."""

from collections import Counter
from collections.abc import Iterable, Mapping

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histograms"""


class Histogram:
    """How many durations were at most so long."""

    def __init__(self) -> None:
        self.counts = [0] * len(SECONDS)
        self.total, self.sum = 0, 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.total += 1
        self.sum += seconds
        for place, bound in enumerate(SECONDS):
            self.counts[place] += seconds <= bound

    def lines(self, name: str, about: str) -> Iterable[str]:
        """In Prometheus' format."""
        yield from head(name, "histogram", about)
        for bound, count in zip(SECONDS, self.counts, strict=True):
            yield f'{name}_bucket{{le="{bound:g}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self.total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {self.total}"


class Metrics:
    """Counted in the event loop alone."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        """By route and status"""
        self.disconnects = 0
        self.prompt_tokens = 0
        self.first_piece, self.answer = Histogram(), Histogram()

    def text(self, models: Mapping[str, Mapping[str, int]]) -> str:
        """``models``: each one's tokens, running and waiting texts."""
        lines = list(head("fabella_answers_total", "counter", "Answers by route and status."))
        for (route, status), count in sorted(self.answers.items()):
            lines.append(f'fabella_answers_total{{route="{route}",status="{status}"}} {count}')
        lines += _one("fabella_disconnects_total", "counter", "Clients that left before the end.", self.disconnects)
        lines += _one("fabella_prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt_tokens)
        for name, kind, about in (
            ("tokens_total", "counter", "Tokens told."),
            ("running", "gauge", "Texts being told."),
            ("waiting", "gauge", "Texts waiting for a place."),
        ):
            lines += head(f"fabella_{name}", kind, about)
            for model, facts in models.items():
                lines.append(f'fabella_{name}{{model="{_label(model)}"}} {facts[name]}')
        lines += self.first_piece.lines("fabella_first_piece_seconds", "From a request to its first text.")
        lines += self.answer.lines("fabella_answer_seconds", "From a request to the end of its answer.")
        return "\n".join([*lines, ""])


def head(name: str, kind: str, about: str) -> Iterable[str]:
    """The two lines before a metric."""
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def _one(name: str, kind: str, about: str, value: int) -> list[str]:
    return [*head(name, kind, about), f"{name} {value}"]


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
