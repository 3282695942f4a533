"""For all tests: the event loop, and no log line at warning or above that a test does not expect."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import COMPILED
from tornado.ioloop import IOLoop

from chp.app import is_compiled

_APPLICATION = "ConfigurableProxy"
_LOGGERS = ("chp", "asyncio", "tornado")


@pytest.fixture(scope="session", autouse=True)
def right_build() -> None:
    """Fail all tests, should these not be the modules that are meant."""
    assert is_compiled() is COMPILED


@pytest.fixture(autouse=True)
def io_loop() -> Iterator[IOLoop]:
    """A loop for each test, in place of pytest-tornasync's own, which uses deprecated interfaces.

    For every test: where a test has none, the plugin asks asyncio for the current loop, which is no more.
    """
    loop = IOLoop(make_current=False, asyncio_loop=asyncio.new_event_loop())
    yield loop
    asyncio_loop = loop.asyncio_loop  # type: ignore[attr-defined]
    left = asyncio.all_tasks(asyncio_loop)
    for task in left:
        task.cancel()
    if left:
        asyncio_loop.run_until_complete(asyncio.wait(left))
    asyncio_loop.run_until_complete(asyncio_loop.shutdown_asyncgens())
    loop.close(all_fds=True)


class LogCollector(logging.Handler):
    """Keeps the lines at warning or above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {self.format(record)}")

    def see(self, record: logging.LogRecord) -> bool:
        """As a filter, for the application's logger: configuring it replaces its handlers."""
        if record.levelno >= self.level:
            self.emit(record)
        return True

    def take(self, pattern: str) -> list[str]:
        """Return the lines that match, and expect them from now on to be no surprise."""
        taken = [line for line in self.lines if re.search(pattern, line)]
        self.lines = [line for line in self.lines if line not in taken]
        return taken


@pytest.fixture(autouse=True)
def log_lines(request: pytest.FixtureRequest) -> Iterator[LogCollector]:
    """Fail a test on log lines at warning or above that it does not expect, and if expected ones are missing.

    A test expects them with ``@pytest.mark.expect_log("regular expression")``, or takes them away
    with ``log_lines.take("regular expression")``.
    """
    collector = LogCollector()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(collector)
    logging.getLogger(_APPLICATION).addFilter(collector.see)
    yield collector
    logging.getLogger(_APPLICATION).removeFilter(collector.see)
    for logger in loggers:
        logger.removeHandler(collector)
    for marker in request.node.iter_markers("expect_log"):
        pattern = marker.args[0]
        assert collector.take(pattern), f"no log line matches {pattern!r}"
    assert not collector.lines, "unexpected log lines:\n" + "\n".join(collector.lines)


# With the key usage that Python 3.13 asks of an authority.
_CA = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")


class PKI:
    """Certificates for tests, made with the openssl command; they are valid for a day."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = self._make("ca", *_CA)
        self.other_ca = self._make("other-ca", *_CA)
        self.cert = self._make(
            "server", *self._signed, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"
        )
        self.key = self._key("server")
        # As JupyterHub's internal certificates: without an Authority Key Identifier.
        self.client_cert = self._make("client", *self._signed, "-addext", "authorityKeyIdentifier=none")
        self.client_key = self._key("client")
        self.encrypted_key = str(directory / "encrypted.key")
        self._openssl("ec", "-in", self.key, "-aes128", "-passout", "pass:secret", "-out", self.encrypted_key)
        self.ca_bundle = str(directory / "bundle.pem")
        Path(self.ca_bundle).write_text(Path(self.other_ca).read_text() + Path(self.ca).read_text())

    def new_server(self, name: str) -> tuple[str, str]:
        """Make one more certificate for a server on this machine; return its file and its key's."""
        san = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        return self._make(name, *self._signed, *san), self._key(name)

    @property
    def _signed(self) -> tuple[str, ...]:
        return ("-CA", self.ca, "-CAkey", self._key("ca"), "-addext", "basicConstraints=critical,CA:FALSE")

    def _key(self, name: str) -> str:
        return str(self.directory / f"{name}.key")

    def _make(self, name: str, *options: str) -> str:
        cert = str(self.directory / f"{name}.pem")
        new_key = (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            self._key(name),
        )
        self._openssl("req", "-x509", *new_key, "-out", cert, "-subj", f"/CN={name}", "-days", "1", *options)
        return cert

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKI:
    return PKI(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session", autouse=True)
def few_authorities(pki: PKI) -> Iterator[None]:
    """Whom a proxy trusts that is not told: one authority, in place of the system's hundred and more.

    To read those took 44 ms of each start of a proxy, a third of the time of all tests on the wire.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", pki.other_ca)
        yield
