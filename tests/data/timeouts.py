"""Wait for a process to exit, without polling."""

import os
import select


def has_ended(pid: int, seconds: float = 10.0) -> bool:
    """Return whether the process exits within ``seconds``; it need not be a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(1000 * seconds))
    finally:
        os.close(descriptor)
