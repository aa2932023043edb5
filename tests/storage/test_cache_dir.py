from pathlib import Path

import pytest

from fabella.storage import cache_folder


def test_the_users_choice_stands_and_the_usual_place_is_below_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("step") == tmp_path / "fabella" / "step"
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_folder("step") == tmp_path / "home" / ".cache" / "fabella" / "step"
