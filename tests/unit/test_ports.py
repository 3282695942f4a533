"""tests/support/ports.py: what one process is given, the system gives nobody, nor has another process it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from support import ports

TESTS = Path(__file__).parent.parent


def given_to_another_process(count: int) -> set[int]:
    program = f"from support.ports import free_port\nfor _ in range({count}): print(free_port())"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, timeout=20, check=True
    )
    return set(map(int, result.stdout.split()))


def test_processes_have_no_port_in_common() -> None:
    count = ports._BLOCK - 1
    own = {ports.free_port() for _ in range(count)}
    other = given_to_another_process(count)
    # A server whose process of tests has ended may still have one.
    assert min(len(own), len(other)) > count // 2
    assert own.isdisjoint(other)


def test_the_system_chooses_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        assert chosen.getsockname()[1] not in range(ports._BLOCKS.start, ports._BLOCKS.stop)


def test_a_port_on_which_somebody_listens_is_left_out() -> None:
    with socket.create_server(("127.0.0.1", ports.free_port())) as taken:
        assert taken.getsockname()[1] not in {ports.free_port() for _ in range(ports._BLOCK)}
