from __future__ import annotations

import os
import select
import socket
import subprocess
from pathlib import Path

import pytest
from support.commands import CHP

from chp.notify import NotifyListener, notify


def test_what_is_said_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = NotifyListener(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", listener.environment["NOTIFY_SOCKET"])
    notify(STATUS="port 80:\npermission\tdenied")
    listener.read()
    assert listener.state == {"STATUS": "port 80: permission denied"}
    notify(READY="1", STATUS="Proxying")
    notify(STOPPING="1")
    listener.read()
    assert listener.state == {"READY": "1", "STATUS": "Proxying", "STOPPING": "1"}
    listener.read()  # nothing new
    listener.close()
    assert os.listdir(tmp_path) == []


def test_nobody_has_to_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY="1")
    for address in (str(tmp_path / "nobody"), "x" * 500, "@chp-test-nobody"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify(READY="1")


def test_abstract_names_and_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"chp-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify(STATUS="é" * 5000)
        assert len(receiver.recv(100_000)) == 4096


def test_a_listener_that_reads_nothing_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = NotifyListener(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", listener.environment["NOTIFY_SOCKET"])
    for _ in range(2000):
        notify(STATUS="still here")
    listener.close()


def test_the_command_says_when_it_is_ready_and_why_it_fails(tmp_path: Path) -> None:
    listener = NotifyListener(str(tmp_path / "notify"))
    environment = {**os.environ, **listener.environment}
    command = [CHP, "--port", "0", "--ip", "127.0.0.1"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        assert select.select([listener], [], [], 10)[0]
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    listener.read()
    assert listener.state == {"READY": "1", "STATUS": "Proxying", "STOPPING": "1"}

    failed = subprocess.run([*command, "--timeuot", "1"], env=environment, capture_output=True, check=False)
    assert failed.returncode == 1
    listener.read()
    assert listener.state["STATUS"] == "unknown option --timeuot (did you mean --timeout?)"
    listener.close()
