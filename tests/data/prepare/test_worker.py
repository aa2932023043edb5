"""One worker process, spoken to over its pipes."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from fabella.data.pipe_messages import receive, send
from fabella.data.prepare.worker import DONE
from tests.processes import started
from tests.tokenizers.samples import corpus, trained


def test_it_answers_until_its_input_ends(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    command = [sys.executable, "-m", "fabella.data.prepare.worker", str(tmp_path), "<u2"]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        for text in corpus()[:3]:
            send(process.stdin, text.encode(), b"")
            kind, ids, lengths, sizes = receive(process.stdout)
            expected = [*trained("bpe").encode(text).tolist(), trained("bpe").eos_id, trained("bpe").eos_id]
            assert kind == DONE
            assert np.frombuffer(ids, "<u2").tolist() == expected
            assert np.frombuffer(lengths, np.int64).tolist() == [len(expected) - 1, 1]
            assert np.frombuffer(sizes, np.int64).tolist() == [len(text.encode()), 0]
        process.stdin.close()
        assert process.wait() == 0
