"""What Zero to JupyterHub's chart runs in the proxy's pod, and the files that the Dockerfile takes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import TOKEN, Server, fetch, running
from support.examples import PROGRAMS, ROOT, example
from support.ports import free_port
from support.wire import backend

NOBODY = 65534
# By the chart's template of the proxy's deployment: without certificates, and with those of a secret.
COMMAND = (
    "configurable-http-proxy --ip= --api-ip= --api-port={api} "
    "--default-target={hub} --error-target={hub}/hub/error --port={port}"
)
HTTPS = "--redirect-port={redirect} --redirect-to=443 --ssl-key={tls}/tls.key --ssl-cert={tls}/tls.crt"


@pytest.fixture
def secret(pki: Any) -> Iterator[Path]:
    """A directory like that of a mounted secret: everybody can read it, nobody writes."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        shutil.copy(pki.key, directory / "tls.key")
        shutil.copy(pki.cert, directory / "tls.crt")
        for path in (directory / "tls.key", directory / "tls.crt"):
            path.chmod(0o444)
        directory.chmod(0o555)
        yield directory
        directory.chmod(0o755)


def pod(directory: Path, command: str) -> Server:
    """Run a command as the pod's user, who can write nowhere; whoever is not root runs it as themselves.

    Without capabilities but one: it may read everything, since Python may be in somebody's home directory.
    """
    program, *arguments = shlex.split(command)
    prefix = []
    if os.geteuid() == 0:
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        capabilities = [
            f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")
        ]
        prefix = ["setpriv", *ids, *capabilities, "--"]
    environment = {"CONFIGPROXY_AUTH_TOKEN": TOKEN, "HOME": "/nowhere"}
    return Server(directory / "pod.log", *prefix, f"{PROGRAMS}/{program}", *arguments, **environment)


def flags_of_values() -> str:
    """Return the command line flags of the page's values for the chart."""
    values = example("extraCommandLineFlags", "docs/jupyterhub.md", "yaml")
    flags = re.findall(r"^ +- (--.+)$", values, re.MULTILINE)
    assert flags
    return " ".join(flags)


async def test_http_as_the_chart_runs_it(tmp_path: Path) -> None:
    port, api = free_port(), free_port()
    async with backend() as it:
        command = f"{COMMAND} {flags_of_values()}".format(port=port, api=api, hub=it.url)
        with running(pod(tmp_path, command)) as server:
            server.wait_for("Proxy API at ")
            if os.geteuid() == 0:
                assert os.stat(f"/proc/{server.process.pid}").st_uid == NOBODY
            for host in ("127.0.0.1", "[::1]"):
                health = await fetch(f"http://{host}:{port}/_chp_healthz")
                assert (health.code, health.body) == (200, b'{"status":"OK"}')
                assert (await fetch(f"http://{host}:{api}/api/routes")).code == 403
            assert (await fetch(f"http://127.0.0.1:{port}/hub/login")).code == 200
            assert b"GET /hub/login HTTP/1.1\r\n" in it.all_received
            assert server.stop() == 0


async def test_https_as_the_chart_runs_it(tmp_path: Path, pki: Any, secret: Path) -> None:
    port, api, redirect = free_port(), free_port(), free_port()
    async with backend() as it:
        command = f"{COMMAND} {HTTPS}".format(port=port, api=api, redirect=redirect, tls=secret, hub=it.url)
        with running(pod(tmp_path, command)) as server:
            server.wait_for("Proxy API at ")
            page = await fetch(f"https://127.0.0.1:{port}/hub/login", ca_certs=pki.ca)
            assert page.code == 200
            answer = await fetch(f"http://127.0.0.1:{redirect}/hub/login?x=1", follow_redirects=False)
            assert answer.headers["Location"] == "https://127.0.0.1/hub/login?x=1"
            assert server.stop() == 0


def test_dockerfile_takes_files_that_exist() -> None:
    text = (ROOT / "share" / "docker" / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) /src\S*$", text, re.MULTILINE)
    files = [name for line in copied for name in line.split()]
    assert {"pyproject.toml", "setup.py", "chp", "share"} <= set(files)
    assert [name for name in files if not (ROOT / name).exists()] == []
