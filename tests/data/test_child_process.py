"""Tests that child processes exchange frames, pass errors to the parent, report their exits and leave no orphans."""

import io
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.child_process import PARENT_SIGNALS, ChildExitedError, ChildProcess, receive, send
from fabella.errors import ConfigError, TextError
from tests.data import child_echo
from tests.data.timeouts import has_ended
from tests.source_tree import REPOSITORY

messages = st.lists(st.lists(st.binary(max_size=50), max_size=6), max_size=5)


@given(several=messages)
def test_frames_are_received_as_they_were_sent(several: list[list[bytes]]) -> None:
    pipe = io.BytesIO()
    for parts in several:
        send(pipe, *parts)
    pipe.seek(0)
    assert [list(receive(pipe)) for _ in several] == several
    with pytest.raises(EOFError):
        receive(pipe)


@given(parts=st.lists(st.binary(max_size=20), max_size=4), data=st.data())
def test_a_truncated_frame_raises_eof_error(parts: list[bytes], data: st.DataObject) -> None:
    pipe = io.BytesIO()
    send(pipe, *parts)
    frame = pipe.getvalue()
    with pytest.raises(EOFError, match="the other side of the pipe has exited"):
        receive(io.BytesIO(frame[: data.draw(st.integers(0, len(frame) - 1))]))


def child(name: str = "The echo", *, keep_stderr: bool = False, **request: bool) -> ChildProcess:
    return ChildProcess(child_echo.__name__, request, name=name, keep_stderr=keep_stderr)


def test_requests_are_served_in_order() -> None:
    with child() as echo:
        assert [list(echo.request(text)) for text in (b"one", b"two")] == [[b"eno"], [b"owt"]]
        assert list(echo.request(b"", b"x" * 10**6)) == [b"", b"x" * 10**6]
    assert has_ended(echo.pid)


def test_an_error_keeps_its_nearest_public_class_message_and_hint_and_the_child_keeps_serving() -> None:
    with child() as echo:
        with pytest.raises(TextError, match="no text") as raised:
            echo.request(b"error")
        assert type(raised.value) is TextError
        assert raised.value.hint == "Bring some."
        assert list(echo.request(b"abc")) == [b"cba"]


def test_an_error_while_opening_is_the_response_to_the_first_request() -> None:
    with child(refuse=True) as echo, pytest.raises(ConfigError, match="refused"):
        echo.request(b"abc")


def test_a_crash_is_reported_with_its_exit_code_and_last_output() -> None:
    with child(keep_stderr=True) as echo:
        with pytest.raises(ChildExitedError, match=rf"The echo \(pid {echo.pid}\) exited \(exit code 1\)"):
            echo.request(b"crash")
        assert "SystemError: broken library" in echo.stderr()


def test_a_killed_child_is_named_with_the_signal() -> None:
    with child() as echo:
        echo.request(b"abc")
        os.kill(echo.pid, signal.SIGKILL)
        with pytest.raises(ChildExitedError) as raised:
            echo.request(b"abc")
    assert raised.value.status == "killed by SIGKILL"


def test_what_a_library_prints_does_not_disturb_the_responses() -> None:
    with child(keep_stderr=True) as echo:
        assert list(echo.request(b"print")) == [b"tnirp"]
        echo.kill()
        assert echo.stderr() == "printed by a library\n"


def test_a_response_can_be_waited_for_with_a_timeout() -> None:
    with child() as echo:
        echo.request(b"abc")
        assert not echo.has_response(0.01)
        echo.send(b"abc")
        assert echo.has_response(60.0)
        assert list(echo.receive()) == [b"cba"]


def test_signals_for_the_parent_are_ignored_by_the_child() -> None:
    with child() as echo:
        for number in PARENT_SIGNALS:
            os.kill(echo.pid, number)
        assert list(echo.request(b"abc")) == [b"cba"]


ABANDONED = """
import os, signal
from tests.data import child_echo
from fabella.data.child_process import ChildProcess
child = ChildProcess(child_echo.__name__, {})
child.request(b"abc")
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault("B9", cases=1)
def test_a_child_does_not_outlive_a_killed_parent() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", ABANDONED]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert has_ended(int(process.stdout))
