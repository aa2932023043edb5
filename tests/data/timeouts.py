"""Waiting for a process to end without looking at a clock."""

import os
import select


def has_ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends within ``seconds``; it need not be a child."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(1000 * seconds))
    finally:
        os.close(watched)
