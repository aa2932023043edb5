"""Tests that a worker process tokenizes the documents of each request until its parent closes the pipe."""

from pathlib import Path

import numpy as np

from fabella.data.child_process import ChildProcess
from fabella.data.prepare import worker
from tests.data.timeouts import has_ended
from tests.tokenizers.samples import corpus, trained


def test_a_worker_tokenizes_until_its_input_ends(tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    with ChildProcess(worker.__name__, {"tokenizer": str(tmp_path), "dtype": "<u2"}) as process:
        for text in corpus()[:3]:
            ids, lengths, sizes, _ = process.request(text.encode(), b"")
            expected = [*trained("bpe").encode(text).tolist(), trained("bpe").eos_id, trained("bpe").eos_id]
            assert np.frombuffer(ids, "<u2").tolist() == expected
            assert np.frombuffer(lengths, np.int64).tolist() == [len(expected) - 1, 1]
            assert np.frombuffer(sizes, np.int64).tolist() == [len(text.encode()), 0]
        assert process._process.stdin
        process._process.stdin.close()
        assert process._process.wait() == 0
    assert has_ended(process.pid)
