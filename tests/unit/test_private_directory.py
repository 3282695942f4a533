from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from chp.private_directory import PrivateDirectory, remove_left_behind


@pytest.fixture(autouse=True)
def parent(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    return short_path


def left(parent: Path, name: str = "left") -> Path:
    directory = parent / f"jupyterhub-proxy-{name}"
    directory.mkdir(0o700)
    (directory / "chp_config.py").write_text("")
    return directory


def test_nobody_else_enters_it_and_it_is_removed_with_its_content(parent: Path) -> None:
    directory = PrivateDirectory()
    assert os.listdir(parent) == []
    file = Path(directory.path("x"))
    assert file == Path(directory.path("x"))
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.write_text("")
    directory.remove()
    directory.remove()
    assert os.listdir(parent) == []
    assert Path(directory.path("x")).parent.is_dir()
    directory.remove()


def test_one_that_was_taken_away_is_made_again(parent: Path) -> None:
    directory = PrivateDirectory()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        first = Path(directory.path("x")).parent
        shutil.rmtree(first)
        first.symlink_to("/")  # somebody else's since
        assert Path(directory.path("x")).parent not in (first, Path("/"))
        first.unlink()
    directory.remove()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir(parent) == []


def test_what_a_killed_program_left_is_removed(parent: Path) -> None:
    directory = left(parent)
    with socket.socket(socket.AF_UNIX) as api, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        api.bind(str(directory / "api.sock"))
        api.listen()
        notify.bind(str(directory / "notify.sock"))
        remove_left_behind()
        assert directory.is_dir()  # the Hub is gone, and its proxy is not
        api.close()
        remove_left_behind()
        assert directory.is_dir()
    remove_left_behind()
    assert not directory.exists()


def hold(path: str, connection: Any) -> None:
    directory = PrivateDirectory()
    connection.send(directory.path(path))
    connection.recv()


def test_that_of_another_program_stays_while_it_runs(parent: Path) -> None:
    """A proxy that is just being started does not listen yet."""
    ours, theirs = multiprocessing.Pipe()
    program = multiprocessing.get_context("fork").Process(target=hold, args=("x", theirs))
    program.start()
    try:
        directory = Path(ours.recv()).parent
        remove_left_behind()
        assert directory.is_dir()
    finally:
        program.kill()
        program.join()
    remove_left_behind()
    assert not directory.exists()


def test_what_is_not_ours_stays(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = left(parent)
    (parent / "jupyterhub-proxy-file").write_text("")
    (parent / "jupyterhub-proxy-link").symlink_to("/nowhere")
    (parent / "something-else").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: 12345)
        remove_left_behind()
    assert len(os.listdir(parent)) == 4
    remove_left_behind()
    assert not directory.exists()
    assert len(os.listdir(parent)) == 3


def test_a_parent_that_cannot_be_read_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    remove_left_behind()
