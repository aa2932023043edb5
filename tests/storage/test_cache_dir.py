from pathlib import Path

import pytest

from fabella.storage import cache_dir


def test_the_cache_is_below_xdg_cache_home_or_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir("step") == tmp_path / "fabella" / "step"
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_dir("step") == tmp_path / "home" / ".cache" / "fabella" / "step"
