"""A proxy in front of the backend, ready to be measured."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.backend import SIZES, content
from benchmarks.load import check_answer
from benchmarks.peers import TOKEN, Peer, Setup
from benchmarks.processes import Failure, Meter, Process, ending, free_ports

_START_TIMEOUT = 15.0  # seconds
_POLL = 0.002


@dataclass(frozen=True)
class Backend:
    """The running backend, and the certificate that it shares with the proxies."""

    port: int
    tls_port: int
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Stage:
    """A running proxy."""

    peer: Peer
    process: Process
    setup: Setup
    theatre: Theatre

    def meter(self) -> Meter:
        return Meter(self.process)

    def check(self, name: str, *, upload: int = 0) -> None:
        """See that the proxy gives the right answer, to the last byte."""
        path, expected = f"/user/ada/{name}", content(SIZES[name.encode()])
        check_answer(self.setup.port, self.setup.tls, path, expected, upload=upload)

    def wait(self) -> None:
        """Wait for the first right answer."""
        gives_up = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self.check("small")
                return
            except Failure as error:
                if self.process.process.poll() is not None or time.monotonic() > gives_up:
                    raise Failure(
                        f"{self.peer.title} did not start: {error}\n{self.process.log()}"
                    ) from error
                time.sleep(_POLL)


@dataclass
class Theatre:
    """Where stages are set up: the backend, and what is installed."""

    backend: Backend
    installed: Path
    folder: Path
    _count: int = field(default=0)

    def start(self, peer: Peer, *, tls: bool, backend_tls: bool) -> Stage:
        """Start a proxy without waiting for it. The caller ends its process."""
        self._count += 1
        folder = self.folder / f"{peer.name}-{self._count}"
        folder.mkdir()
        port, api_port = free_ports(2)
        setup = Setup(
            folder,
            self.backend.certificate,
            self.backend.key,
            port,
            api_port,
            self.backend.tls_port if backend_tls else self.backend.port,
            tls,
            backend_tls,
        )
        command = peer.command(self.installed, setup)
        environment = {"CONFIGPROXY_AUTH_TOKEN": TOKEN, **peer.environment}
        return Stage(peer, Process(command, folder / "log", environment=environment), setup, self)

    @contextlib.contextmanager
    def running(self, peer: Peer, *, tls: bool, backend_tls: bool) -> Iterator[Stage]:
        stage = self.start(peer, tls=tls, backend_tls=backend_tls)
        with ending(stage.process):
            stage.wait()
            yield stage


@contextlib.contextmanager
def theatre(python: str, installed: Path) -> Iterator[Theatre]:
    """Start the backend; everything is removed at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate, key = make_certificate(folder)
        command = [python, "-m", "benchmarks.backend", str(certificate), str(key)]
        root = str(Path(__file__).parent.parent)
        backend = Process(
            command, folder / "backend.log", environment={"PYTHONPATH": root}, output=subprocess.PIPE
        )
        with ending(backend):
            assert backend.process.stdout is not None
            line = backend.process.stdout.readline().split()
            if len(line) != 2:
                raise Failure(f"the backend did not start:\n{backend.log()}")
            yield Theatre(Backend(int(line[0]), int(line[1]), certificate, key), installed, folder)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate with a P-256 key: the kind with the cheapest handshakes, so that proxies show."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += [
        "-days",
        "30",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
    ]
    made = subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise Failure(f"openssl failed: {made.stderr}")
    return certificate, key
