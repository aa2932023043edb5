import json
import math
from pathlib import Path

import pytest

from fabella.storage import json_safe, write_json


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_are_null_at_any_depth(number: float) -> None:
    assert json_safe({"a": number, 2: [1.5, (number, "nan")]}) == {"a": None, "2": [1.5, [None, "nan"]]}


def test_written_json_is_standard_and_indented(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"words": "Mère", "loss": math.nan, "steps": (1, 2)})
    written = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert json.loads(written, parse_constant=pytest.fail) == {"words": "Mère", "loss": None, "steps": [1, 2]}
    assert "Mère" in written
    assert written.endswith("}\n")
