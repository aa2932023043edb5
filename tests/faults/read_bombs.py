"""Run as a program by ``test_bombs``: read the given files, and say what came of it and what it took."""

import json
import re
import resource
import sys
import time
from pathlib import Path

from fabella.config.data import FilesSource
from fabella.errors import FabellaError
from fabella.text.source import documents


def peak_kilobytes() -> int:
    """The most memory this program ever had. getrusage would count what the program that started it had as well."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


for name in sys.argv[1:]:
    begun = time.process_time()
    size = 0
    try:
        for text in documents(FilesSource(paths=(name,), separator="lines")):
            size += len(text)
        outcome = "read"
    except FabellaError as error:
        outcome = error.message
    seconds = time.process_time() - begun
    megabytes = peak_kilobytes() / 1024
    print(json.dumps({"outcome": outcome, "bytes": size, "seconds": seconds, "megabytes": megabytes}))
