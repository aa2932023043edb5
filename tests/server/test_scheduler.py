"""Places, queue and cancelling, step by step; texts do not know their neighbours."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from fabella.errors import NumericsError
from fabella.generation.continuous_batching import SampledToken, SequenceRequest
from fabella.generation.generator import TextGenerator
from fabella.generation.sampling import SamplingParams
from fabella.server.delta_stream import ActiveCompletion, Delta
from fabella.server.scheduler import ClosedError, Job, News, QueueFullError, Scheduler
from tests.server.stubs import PATIENCE, Gated, hashing


class Listener:
    """Hears what a scheduler posts, in its thread."""

    def __init__(self) -> None:
        self.heard: dict[Job, list[Delta | BaseException]] = {}
        self.changed = threading.Condition()

    def post(self, news: News) -> None:
        with self.changed:
            for ticket, one in news:
                self.heard.setdefault(ticket, []).append(one)
            self.changed.notify_all()

    def text(self, ticket: Job) -> str:
        """What was told, at its end."""
        with self.changed:
            assert self.changed.wait_for(lambda: self._ended(ticket), PATIENCE), "nothing more is told"
        return "".join(one.text for one in self.heard[ticket] if isinstance(one, Delta))

    def error(self, ticket: Job) -> BaseException:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.heard.get(ticket)), PATIENCE), "nothing is heard"
        last = self.heard[ticket][-1]
        assert isinstance(last, BaseException)
        return last

    def _ended(self, ticket: Job) -> bool:
        heard = self.heard.get(ticket)
        return bool(heard) and isinstance(heard[-1], Delta) and heard[-1].ended_by is not None


def ticket(teller: TextGenerator, prompt: str, *, seed: int = 0, row: int = 0, max_tokens: int = 20) -> Job:
    ids = teller.prepend_eos(teller.tokenizer.encode(prompt))
    request = SequenceRequest(ids=ids, sampling=SamplingParams(temperature=1.0, seed=seed), row=row, opening=1)
    return Job(request, ActiveCompletion(teller.tokenizer, stops=(), max_tokens=max_tokens), lambda _: None)


def scheduler(teller: TextGenerator, listener: Listener, *, together: int = 2, waiting: int = 100) -> Scheduler:
    return Scheduler(
        lambda: teller.slots(together), together=together, waiting=waiting, post=listener.post, name="tested"
    )


@pytest.fixture
def gated() -> Iterator[tuple[Gated, Scheduler, Listener]]:
    """Two places, and a queue of one; a step only when the gate is opened."""
    model, listener = Gated(), Listener()
    found = scheduler(model.teller(), listener, waiting=1)
    yield model, found, listener
    model.close()
    found.close()


@pytest.mark.fault("F12", cases=200)
def test_a_text_is_the_same_alone_and_among_noisy_neighbours() -> None:
    teller, listener = hashing(), Listener()
    random = np.random.default_rng(3)
    asked = [
        (f"Prompt {i} " + "x" * int(random.integers(0, 90)), int(random.integers(0, 9)), i % 3) for i in range(200)
    ]
    alone = [
        teller.generate(prompt, SamplingParams(temperature=1.0, seed=seed), n=row + 1, max_tokens=5 + row)[
            row
        ].completion
        for prompt, seed, row in asked
    ]
    telling = scheduler(teller, listener, together=8, waiting=200)
    tickets = [ticket(teller, prompt, seed=seed, row=row, max_tokens=5 + row) for prompt, seed, row in asked]
    for one in tickets:
        telling.submit([one])
    assert [listener.text(one) for one in tickets] == alone
    telling.close()


def test_more_than_places_and_queue_is_refused_as_a_whole(gated: tuple[Gated, Scheduler, Listener]) -> None:
    model, telling, _ = gated
    teller = model.teller()
    telling.submit([ticket(teller, "a"), ticket(teller, "b")])
    with pytest.raises(QueueFullError) as caught:
        telling.submit([ticket(teller, "c"), ticket(teller, "d")])
    assert 1 <= caught.value.seconds <= 60
    telling.submit([ticket(teller, "c")])
    with pytest.raises(QueueFullError):
        telling.submit([ticket(teller, "d")])


def test_a_cancelled_text_leaves_its_place_to_the_next(gated: tuple[Gated, Scheduler, Listener]) -> None:
    model, telling, listener = gated
    teller = model.teller()
    first, second, third = (ticket(teller, prompt, max_tokens=10**6) for prompt in "abc")
    telling.submit([first, second])
    telling.submit([third])
    telling.cancel([first])
    third.told = ActiveCompletion(teller.tokenizer, stops=(), max_tokens=3)
    model.close()
    assert len(listener.text(third).encode()) >= 3  # it was told to its end, which it had no place for before
    telling.cancel([second])


def test_a_text_that_waits_can_be_cancelled(gated: tuple[Gated, Scheduler, Listener]) -> None:
    model, telling, listener = gated
    teller = model.teller()
    running = [ticket(teller, "a"), ticket(teller, "b")]
    telling.submit(running)
    waiting = ticket(teller, "c")
    telling.submit([waiting])
    telling.cancel([waiting])
    model.close()
    for one in running:
        listener.text(one)
    assert waiting not in listener.heard


@pytest.mark.fault("F15", cases=20)
@pytest.mark.parametrize(
    "error", [NumericsError("no numbers"), RuntimeError("out of memory"), MemoryError(), IndexError()]
)
def test_a_failing_step_fails_its_texts_and_the_next_are_told(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller, listener = hashing(), Listener()
    telling = scheduler(teller, listener)
    expected = teller.generate("Once", SamplingParams(temperature=1.0), max_tokens=20)[0].completion
    broken: list[Exception] = []
    decode = type(teller.model).decode

    def failing(*arguments: object) -> object:
        if broken:
            raise broken.pop()
        return decode(*arguments)

    monkeypatch.setattr(type(teller.model), "decode", failing)
    for _ in range(5):
        broken.append(error)
        failed = ticket(teller, "Once")
        telling.submit([failed])
        assert listener.error(failed) is error
        good = ticket(teller, "Once")
        telling.submit([good])
        assert listener.text(good) == expected
    assert telling.alive
    telling.close()


def test_those_who_wait_hear_when_the_thread_is_gone() -> None:
    class Broken:
        """Places that fail in a way that nobody foresaw."""

        free = 2

        def add(self, request: SequenceRequest) -> int:
            return 0

        def step(self) -> list[SampledToken]:
            raise NotADirectoryError

        def remove(self, number: int) -> None: ...

    teller, listener = hashing(), Listener()
    telling = Scheduler(Broken, together=2, waiting=2, post=listener.post, name="broken")
    hook, threading.excepthook = threading.excepthook, lambda _: None  # the traceback is for whoever runs the server
    try:
        lost = ticket(teller, "a")
        telling.submit([lost])
        assert isinstance(listener.error(lost), ClosedError)
        telling.close()
    finally:
        threading.excepthook = hook
    assert not telling.alive
    with pytest.raises(ClosedError):
        telling.submit([ticket(teller, "b")])


def test_one_that_retires_tells_what_it_has_and_takes_nothing_more() -> None:
    model, listener = Gated(), Listener()
    telling, teller = scheduler(model.teller(), listener, together=1), model.teller()
    asked = [ticket(teller, "a", max_tokens=3), ticket(teller, "b", max_tokens=3)]
    telling.submit(asked)
    telling.drain()
    with pytest.raises(ClosedError):
        telling.submit([ticket(teller, "c")])
    model.close()
    for one in asked:
        assert len(listener.text(one)) >= 1
    telling.close()
    assert not telling.alive
