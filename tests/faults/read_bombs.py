"""Program of test_bombs.py: reads the given files and prints the outcome, CPU time and peak memory of each as JSON."""

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
    """Return the peak memory of this process. getrusage would include the peak of the parent before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


for name in sys.argv[1:]:
    start = time.process_time()
    size = 0
    try:
        for text in documents(FilesSource(paths=(name,), separator="lines")):
            size += len(text)
        outcome = "read"
    except FabellaError as error:
        outcome = error.message
    seconds = time.process_time() - start
    megabytes = peak_kilobytes() / 1024
    print(json.dumps({"outcome": outcome, "bytes": size, "seconds": seconds, "megabytes": megabytes}))
