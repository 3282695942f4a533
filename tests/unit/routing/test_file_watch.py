"""chp/routing/storage/file_watch.py: writes are told of, where the system can do that."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from chp.routing.storage.file_watch import file_watched


async def told(written: asyncio.Event) -> bool:
    try:
        await asyncio.wait_for(written.wait(), 0.2)
    except asyncio.TimeoutError:
        return False
    written.clear()
    return True


@pytest.mark.parametrize("relative", [False, True])
async def test_writes_are_told_of(tmp_path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("db-wal") if relative else tmp_path / "db-wal"
    written = asyncio.Event()
    with file_watched(str(path), written.set) as works:
        assert works
        path.write_text("made later")
        assert await told(written)
        path.unlink()
        path.write_text("made again")
        assert await told(written)
        (tmp_path / "other").write_text("x")
        (tmp_path / "db").write_text("x")
        assert not await told(written)
    path.write_text("nobody listens")
    assert not await told(written)


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


@pytest.mark.parametrize(
    "libc",
    [
        SimpleNamespace(),
        SimpleNamespace(inotify_init1=lambda flags: -1, inotify_add_watch=None),
        SimpleNamespace(
            inotify_init1=lambda flags: os.open("/dev/null", os.O_RDONLY),
            inotify_add_watch=lambda watch, path, mask: -1,
        ),
    ],
)
async def test_where_the_system_cannot(
    tmp_path: Path, libc: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with file_watched(str(tmp_path / "db-wal"), lambda: None) as works:
        assert not works
    assert descriptors() == before
