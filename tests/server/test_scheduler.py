"""Tests of batch, queue and cancellation step by step, of the deltas of a completion, and of its independence."""

import threading
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.errors import NumericsError
from fabella.generation.continuous_batching import SampledToken, SequenceRequest
from fabella.generation.detokenizer import StopStrings
from fabella.generation.generator import TextGenerator
from fabella.generation.likelihood import PromptScores
from fabella.generation.sampling import SamplingParams
from fabella.server.scheduler import ClosedError, Events, Job, QueueFullError, Scheduler
from fabella.server.served_completion import Delta, ServedCompletion
from tests.generation.tiny_run import tokenizer
from tests.server.stubs import TIMEOUT_SECONDS, Gated, hashing

TOKENIZER = tokenizer()
UNSCORED = PromptScores([], [])
OUTPUTS = st.text("abé🐉\n", max_size=25).map(str.encode)


class Listener:
    """Collects the events that a scheduler posts from its thread."""

    def __init__(self) -> None:
        self.received: dict[Job, list[Delta | BaseException]] = {}
        self.changed = threading.Condition()

    def post(self, events: Events) -> None:
        with self.changed:
            for job, event in events:
                self.received.setdefault(job, []).append(event)
            self.changed.notify_all()

    def text(self, job: Job) -> str:
        """Return the completion of a job once it has ended."""
        with self.changed:
            assert self.changed.wait_for(lambda: self._ended(job), TIMEOUT_SECONDS), "the job does not end"
        return "".join(event.text for event in self.received[job] if isinstance(event, Delta))

    def error(self, job: Job) -> BaseException:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.received.get(job)), TIMEOUT_SECONDS), "no event arrives"
        last = self.received[job][-1]
        assert isinstance(last, BaseException)
        return last

    def _ended(self, job: Job) -> bool:
        events = self.received.get(job)
        return bool(events) and isinstance(events[-1], Delta) and events[-1].finish_reason is not None


def job(generator: TextGenerator, prompt: str, *, seed: int = 0, row: int = 0, max_tokens: int = 20) -> Job:
    ids = generator.prepend_prefix(generator.tokenizer.encode(prompt))
    request = SequenceRequest(
        ids=ids, sampling=SamplingParams(temperature=1.0, seed=seed), row=row, num_prefix_tokens=1
    )
    return Job(request, ServedCompletion(generator.tokenizer, stops=(), max_tokens=max_tokens), lambda _: None)


def scheduler(
    generator: TextGenerator, listener: Listener, *, max_batch_size: int = 2, max_queue_size: int = 100
) -> Scheduler:
    return Scheduler(
        lambda: generator.continuous_batcher(max_batch_size),
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        post=listener.post,
        name="test",
        score_prompt=lambda echo: generator.score_prompt(echo.ids, echo.alternatives),
    )  # fmt: skip


@pytest.fixture
def gated() -> Iterator[tuple[Gated, Scheduler, Listener]]:
    """A batch of two, a queue of one, and a model that steps only when the gate opens."""
    model, listener = Gated(), Listener()
    gated_scheduler = scheduler(model.generator(), listener, max_queue_size=1)
    yield model, gated_scheduler, listener
    model.close()
    gated_scheduler.close()


@pytest.mark.fault("F12", cases=200)
def test_a_completion_does_not_depend_on_the_rest_of_the_batch() -> None:
    generator, listener = hashing(), Listener()
    random = np.random.default_rng(3)
    requests = [
        (f"Prompt {i} " + "x" * int(random.integers(0, 90)), int(random.integers(0, 9)), i % 3) for i in range(200)
    ]
    expected = [
        generator.generate(prompt, SamplingParams(temperature=1.0, seed=seed), n=row + 1, max_tokens=5 + row)[
            row
        ].completion
        for prompt, seed, row in requests
    ]
    decoding = scheduler(generator, listener, max_batch_size=8, max_queue_size=200)
    jobs = [job(generator, prompt, seed=seed, row=row, max_tokens=5 + row) for prompt, seed, row in requests]
    for queued in jobs:
        decoding.submit([queued])
    assert [listener.text(queued) for queued in jobs] == expected
    decoding.close()


def test_jobs_that_do_not_fit_the_queue_are_all_refused(gated: tuple[Gated, Scheduler, Listener]) -> None:
    model, decoding, _ = gated
    generator = model.generator()
    decoding.submit([job(generator, "a"), job(generator, "b")])
    with pytest.raises(QueueFullError) as caught:
        decoding.submit([job(generator, "c"), job(generator, "d")])
    assert 1 <= caught.value.seconds <= 60
    decoding.submit([job(generator, "c")])
    with pytest.raises(QueueFullError):
        decoding.submit([job(generator, "d")])


def test_a_cancelled_job_frees_its_row_for_the_next_one(gated: tuple[Gated, Scheduler, Listener]) -> None:
    model, decoding, listener = gated
    generator = model.generator()
    first, second, third = (job(generator, prompt, max_tokens=10**6) for prompt in "abc")
    decoding.submit([first, second])
    decoding.submit([third])
    decoding.cancel([first])
    third.completion = ServedCompletion(generator.tokenizer, stops=(), max_tokens=3)
    model.close()
    assert len(listener.text(third).encode()) >= 3  # it ran to its end, for which there was no row before
    decoding.cancel([second])


def test_a_queued_job_can_be_cancelled(gated: tuple[Gated, Scheduler, Listener]) -> None:
    model, decoding, listener = gated
    generator = model.generator()
    running = [job(generator, "a"), job(generator, "b")]
    decoding.submit(running)
    queued = job(generator, "c")
    decoding.submit([queued])
    decoding.cancel([queued])
    model.close()
    for active in running:
        listener.text(active)
    assert queued not in listener.received


@pytest.mark.fault("F15", cases=20)
@pytest.mark.parametrize(
    "error", [NumericsError("logits are not finite"), RuntimeError("out of memory"), MemoryError(), IndexError()]
)
def test_a_failing_step_fails_its_jobs_and_later_ones_succeed(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, listener = hashing(), Listener()
    decoding = scheduler(generator, listener)
    expected = generator.generate("Once", SamplingParams(temperature=1.0), max_tokens=20)[0].completion
    broken: list[Exception] = []
    decode = type(generator.model).decode

    def failing(*arguments: object) -> object:
        if broken:
            raise broken.pop()
        return decode(*arguments)

    monkeypatch.setattr(type(generator.model), "decode", failing)
    for _ in range(5):
        broken.append(error)
        failed = job(generator, "Once")
        decoding.submit([failed])
        assert listener.error(failed) is error
        good = job(generator, "Once")
        decoding.submit([good])
        assert listener.text(good) == expected
    assert decoding.alive
    decoding.close()


def test_jobs_get_an_error_when_the_thread_dies() -> None:
    class Broken:
        """Batcher that fails with an unforeseen error."""

        free = 2

        def add(self, request: SequenceRequest) -> int:
            return 0

        def step(self) -> list[SampledToken]:
            raise NotADirectoryError

        def remove(self, number: int) -> None: ...

    generator, listener = hashing(), Listener()
    decoding = Scheduler(
        Broken, max_batch_size=2, max_queue_size=2, post=listener.post, name="broken", score_prompt=lambda _: UNSCORED
    )
    # The traceback is for the operator of the server.
    hook, threading.excepthook = threading.excepthook, lambda _: None  # pyright: ignore[reportUnknownLambdaType]
    try:
        lost = job(generator, "a")
        decoding.submit([lost])
        assert isinstance(listener.error(lost), ClosedError)
        decoding.close()
    finally:
        threading.excepthook = hook
    assert not decoding.alive
    with pytest.raises(ClosedError):
        decoding.submit([job(generator, "b")])


def test_a_draining_scheduler_finishes_its_jobs_and_accepts_no_more() -> None:
    model, listener = Gated(), Listener()
    decoding, generator = scheduler(model.generator(), listener, max_batch_size=1), model.generator()
    jobs = [job(generator, "a", max_tokens=3), job(generator, "b", max_tokens=3)]
    decoding.submit(jobs)
    decoding.drain()
    with pytest.raises(ClosedError):
        decoding.submit([job(generator, "c")])
    model.close()
    for submitted in jobs:
        assert len(listener.text(submitted)) >= 1
    decoding.close()
    assert not decoding.alive


# ---------------------------------------------------------------- deltas


def deltas_of(ids: list[int], stops: list[str], *, max_tokens: int = 1000) -> list[Delta]:
    completion = ServedCompletion(TOKENIZER, stops=stops, max_tokens=max_tokens)
    deltas: list[Delta] = []
    for token in [*ids, TOKENIZER.eos_id]:
        deltas.append(completion.append(SampledToken(request=0, token=token)))
        if deltas[-1].finish_reason:
            break
    return deltas


def check_stops(output: bytes, stops: list[str]) -> None:
    deltas = deltas_of(list(output), stops)
    reader = StopStrings(stops)
    expected = "".join(reader.push(character) for character in output.decode("utf-8", "replace")) + reader.end()
    assert "".join(delta.text for delta in deltas) == expected
    assert deltas[-1].finish_reason == ("stop" if reader.matched else "eos")


@pytest.mark.fault("F23", cases=5000)
def test_no_part_of_a_stop_sequence_is_emitted() -> None:
    random = Random(23)
    stopped = 0
    for case in range(5000):
        letters = random.choices("abé🐉\n", k=random.randint(0, 25))
        output = "".join(letters).encode()
        if case % 2:  # missing bytes and invalid bytes
            output = bytes(random.choice((byte, 0xC3, 0xF0)) if random.random() < 0.2 else byte for byte in output)
        stops = ["".join(random.choices("abé🐉\n", k=random.randint(1, 4))) for _ in range(random.randint(0, 4))]
        check_stops(output, stops)
        stopped += any(stop in output.decode("utf-8", "replace") for stop in stops)
    assert stopped > 1000


@settings(max_examples=300)
@given(
    output=OUTPUTS | st.binary(max_size=25).filter(lambda output: TOKENIZER.eos_id not in output),
    stops=st.lists(st.text("abé🐉\n", min_size=1, max_size=4), max_size=4),
)
def test_no_part_of_a_stop_sequence_is_emitted_for_generated_cases(output: bytes, stops: list[str]) -> None:
    check_stops(output, stops)


@given(output=OUTPUTS, stops=st.lists(st.text("abé🐉\n", min_size=1, max_size=4), max_size=2))
def test_the_tokens_spell_the_completion(output: bytes, stops: list[str]) -> None:
    deltas = deltas_of(list(output), stops)
    text = "".join(delta.text for delta in deltas)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert b"".join(TOKENIZER.token_bytes(token.id) for token in tokens).decode() == text
    emitted = 0
    for delta in deltas:
        emitted += len(delta.text)
        assert all(token.start <= emitted for token in delta.tokens)


def test_the_last_delta_at_max_tokens_contains_the_text_that_was_held_back() -> None:
    deltas = deltas_of([*b"ab\xc3"], ["abc"], max_tokens=3)
    assert "".join(delta.text for delta in deltas) == "ab\ufffd"
    assert deltas[-1].finish_reason == "length"
    assert sum(len(delta.tokens) for delta in deltas) == 3


def test_a_truncated_completion_emits_the_text_that_was_held_back() -> None:
    completion = ServedCompletion(TOKENIZER, stops=["abc"], max_tokens=100)
    assert completion.append(SampledToken(request=0, token=ord("a"))) == Delta()
    last = completion.truncate()
    assert (last.text, last.finish_reason, len(last.tokens)) == ("a", "length", 1)
