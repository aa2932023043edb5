"""Lists of byte strings over a pipe."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.pipe_messages import receive, send

messages = st.lists(st.lists(st.binary(max_size=50), max_size=6), max_size=5)


@given(several=messages)
def test_what_is_sent_is_received(several: list[list[bytes]]) -> None:
    pipe = io.BytesIO()
    for parts in several:
        send(pipe, *parts)
    pipe.seek(0)
    assert [list(receive(pipe)) for _ in several] == several
    with pytest.raises(EOFError):
        receive(pipe)


@given(parts=st.lists(st.binary(max_size=20), max_size=4), data=st.data())
def test_an_end_in_the_middle_is_noticed(parts: list[bytes], data: st.DataObject) -> None:
    pipe = io.BytesIO()
    send(pipe, *parts)
    whole = pipe.getvalue()
    with pytest.raises(EOFError, match="the other side of the pipe has ended"):
        receive(io.BytesIO(whole[: data.draw(st.integers(0, len(whole) - 1))]))
