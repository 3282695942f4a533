"""chp/logfile.py: lines get to the file, in order; nobody waits for them; a new file after a rotation."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.wire import until

from chp import logfile
from chp.errors import ConfigError
from chp.logfile import LogFile

LOG = logging.getLogger("chp.test")


def opened(path: Path | str) -> LogFile:
    return LogFile(str(path), asyncio.get_running_loop(), LOG)


async def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    file = opened(path)
    lines = [b"%d\n" % number for number in range(1000)]
    for line in lines:
        file.write(line)
    assert path.read_bytes() == b"before\n"  # it does not write by itself
    await until(lambda: path.read_bytes() == b"before\n" + b"".join(lines))
    file.write(b"last\n")
    await file.close()
    file.write(b"too late\n")
    assert path.read_bytes() == b"before\n" + b"".join(lines) + b"last\n"


async def test_others_can_not_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        file = opened(tmp_path / "log")
    finally:
        os.umask(before)
    await file.close()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


async def test_a_rotated_file(tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    file = opened(path)
    file.write(b"old\n")
    path.rename(moved)
    file.reopen()
    file.write(b"new\n")
    await until(lambda: path.exists() and path.read_bytes() == b"new\n")
    assert moved.read_bytes() == b"old\n"
    await file.close()


@pytest.mark.expect_log("Can't open the access log .*/log again: Not a directory")
async def test_a_file_that_can_not_be_opened_again_stays(tmp_path: Path, log_lines: Any) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = opened(folder / "log")
    folder.rename(tmp_path / "moved")
    folder.write_text("no folder any more")
    file.reopen()
    await until(lambda: log_lines.lines)
    file.write(b"line\n")
    await file.close()
    assert (tmp_path / "moved" / "log").read_bytes() == b"line\n"


@pytest.mark.parametrize("path", ["{}", "{}/missing/log", "/dev/null/log", "{}/nul\0"])
async def test_a_path_that_can_not_be_written(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't write to .*: "):
        opened(path.format(tmp_path))


async def test_a_pipe_that_nobody_reads_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: Any
) -> None:
    monkeypatch.setattr(logfile, "_MAX_WAITING", 300_000)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = opened(path)
    line = b"x" * 999 + b"\n"
    for _ in range(200):
        file.write(line)
    await asyncio.sleep(0)
    file._flush()  # the thread is stuck from now on: a pipe takes 64 KiB
    for _ in range(1000):
        file.write(line)
    received = 0
    for _ in range(1000):
        try:
            received += len(os.read(reader, 65536))
        except BlockingIOError:
            if log_lines.lines and received == 500_000:
                break
            await asyncio.sleep(0.01)
    os.close(reader)
    await file.close()
    assert received == 500_000
    assert log_lines.take("^chp.test: 700 lines of the access log were lost$")


@pytest.mark.expect_log("Can't write to the access log /dev/full: No space left on device")
async def test_a_full_disk_is_said_once(log_lines: Any) -> None:
    file = opened("/dev/full")
    for _ in range(3):
        file.write(b"line\n")
        file._flush()
        await until(lambda: file._writing is None)
    assert len(log_lines.lines) == 1
    good = os.open(os.devnull, os.O_WRONLY)
    os.dup2(good, file._descriptor)
    os.close(good)
    file.write(b"line\n")
    file._flush()
    await until(lambda: file._writing is None)
    assert log_lines.take("3 lines of the access log were lost")
    await file.close()


@pytest.mark.expect_log("Can't write to the access log .*/log: File too large")
async def test_a_disk_that_is_full_within_a_line(tmp_path: Path, log_lines: Any) -> None:
    """What comes when there is room again does not go on in the line that was cut."""
    path = tmp_path / "log"
    size = 64 * 1024 * 1024  # more than any other file that this process may write meanwhile
    path.touch()
    os.truncate(path, size)
    file = opened(path)
    file.write(b"whole\nand cut\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9, limits[1]))
    try:
        file._flush()
        await until(lambda: file._writing is None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    file.write(b"next\n")
    file.write(b"last\n")
    file._flush()
    await until(lambda: file._writing is None)
    assert log_lines.take("1 lines of the access log were lost")
    file.write(b"end\n")
    await file.close()
    with path.open("rb") as written:
        written.seek(size)
        assert written.read() == b"whole\nand\nnext\nlast\nend\n"


def test_a_pipe_without_a_reader_is_refused(tmp_path: Path) -> None:
    """It would hold the program up for ever, deaf to signals."""
    os.mkfifo(tmp_path / "fifo")
    code = (
        "import asyncio, logging\n"
        "from chp.logfile import LogFile\n"
        "async def main():\n"
        f"    LogFile({str(tmp_path / 'fifo')!r}, asyncio.get_running_loop(), logging.getLogger())\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=20, check=False)
    assert ended.stderr.endswith(b"fifo: it is a pipe that nobody reads\n")


def test_a_pipe_that_nobody_reads_does_not_keep_the_program_from_ending(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    code = (
        "import asyncio, logging\n"
        "from chp import logfile\n"
        "logfile._CLOSE_TIMEOUT = 0.1\n"
        "async def main():\n"
        f"    file = logfile.LogFile({str(path)!r}, asyncio.get_running_loop(), logging.getLogger())\n"
        "    file.write(b'x' * 1_000_000 + b'\\n')\n"
        "    await file.close()\n"
        "    file.reopen()\n"  # no error
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=20, check=False)
    os.close(reader)
    assert (ended.returncode, ended.stderr) == (0, b"")


async def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    file = opened("-")
    file.write(b"one\n")
    file.reopen()
    file.write(b"two\n")
    await file.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "one\ntwo\nstill open\n"
