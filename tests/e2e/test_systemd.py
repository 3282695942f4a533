"""Units of share/systemd and drop-ins of docs/jupyterhub.md: systemd takes them, and what they run works."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.commands import PATIENCE, TOKEN, Server, fetch, running
from support.examples import ROOT, example, here
from support.hub import Hub
from support.ports import free_port
from support.wire import backend

from chp.notify import NotifyListener

UNITS = ROOT / "share" / "systemd"
PAGE = "docs/jupyterhub.md"
TLS_DROP_IN = "SupplementaryGroups"
TLJH_PROXY, TLJH_HUB = "Type=notify", "EnvironmentFile=/opt/tljh/state/chp.env\n"
TLJH_CONFIG = 'api.sock"\nc.CHPProxy.should_start'
HUB_CONFIG = "JupyterHub.cleanup_servers"

pytestmark = pytest.mark.timeout(seconds=120)


def exec_start(unit: str) -> str:
    """Return the command line of a unit or drop-in: the last one."""
    joined = unit.replace("\\\n", "")
    return re.findall(r"^ExecStart=(.+)$", joined, re.MULTILINE)[-1]


class Service(Server):
    """What a unit runs, as systemd runs it: with the token and the socket to say that it is ready on."""

    def __init__(self, unit: str, directory: Path, **ports: Any) -> None:
        command = here(exec_start(unit), directory, **ports)
        (directory / "run" / "chp").mkdir(parents=True, exist_ok=True)
        self.listener = NotifyListener(str(directory / "notify.sock"))
        super().__init__(
            directory / "chp.log",
            *shlex.split(command),
            CONFIGPROXY_AUTH_TOKEN=TOKEN,
            **self.listener.environment,
        )

    async def ready(self) -> None:
        gives_up = time.monotonic() + PATIENCE
        while "READY" not in self.listener.state:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < gives_up, self.log
            self.listener.read()
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        super().kill()
        self.listener.close()


def verify(directory: Path, **files: str) -> str:
    """Let systemd read units and drop-ins; returns what it has to say. ``a_b`` is ``a.service.d/b.conf``."""
    for name, text in files.items():
        unit, _, drop_in = name.partition("_")
        path = directory / (f"{unit}.service.d/{drop_in}.conf" if drop_in else f"{unit}.service")
        path.parent.mkdir(exist_ok=True)
        path.write_text(here(text, directory))
    units = [str(path) for path in directory.glob("*.service")]
    result = subprocess.run(
        ["systemd-analyze", "verify", *units],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return result.stderr


def unit(name: str) -> str:
    return (UNITS / f"{name}.service").read_text()


def test_systemd_accepts_units_and_drop_ins(tmp_path: Path) -> None:
    drop_in = example(TLS_DROP_IN, PAGE, "ini")
    assert verify(tmp_path, chp=unit("chp"), jupyterhub=unit("jupyterhub"), chp_override=drop_in) == ""
    assert "Unknown key" in verify(tmp_path, chp_override=drop_in.replace("Groups", "Grups"))


def test_systemd_accepts_the_drop_ins_for_tljh(tmp_path: Path) -> None:
    installed = "[Service]\nExecStart=/bin/true\n"
    result = verify(
        tmp_path,
        traefik=installed,
        traefik_chp=example(TLJH_PROXY, PAGE, "ini"),
        jupyterhub="[Unit]\nRequires=traefik.service\nAfter=traefik.service\n" + installed,
        jupyterhub_chp=example("[Service]\n" + TLJH_HUB, PAGE, "ini"),
    )
    assert result == ""


async def test_proxy_of_the_unit_is_ready_and_serves(tmp_path: Path) -> None:
    port = free_port()
    async with backend() as it:
        with running(Service(unit("chp"), tmp_path, port_8000=port)) as service:
            await service.ready()
            connector = aiohttp.UnixConnector(str(tmp_path / "run" / "chp" / "api.sock"))
            fields = {"Authorization": f"token {TOKEN}"}
            async with (
                aiohttp.ClientSession(connector=connector, headers=fields) as session,
                session.post("http://api/api/routes", json={"target": it.url}) as response,
            ):
                assert response.status == 201
            assert (await fetch(f"http://127.0.0.1:{port}/x")).code == 200
            assert service.stop() == 0
            assert not (tmp_path / "run" / "chp" / "api.sock").exists()


async def test_https_of_the_drop_in(tmp_path: Path, pki: Any) -> None:
    port, redirect_port = free_port(), free_port()
    for source, path in ((pki.key, "etc/ssl/private/hub.key"), (pki.cert, "etc/ssl/certs/hub.pem")):
        (tmp_path / path).parent.mkdir(parents=True)
        shutil.copy(source, tmp_path / path)
    drop_in = example(TLS_DROP_IN, PAGE, "ini")
    with running(Service(drop_in, tmp_path, port_443=port, port_80=redirect_port)) as service:
        await service.ready()
        page = await fetch(f"https://127.0.0.1:{port}/_chp_healthz", ca_certs=pki.ca)
        assert page.code == 200
        redirect = await fetch(f"http://127.0.0.1:{redirect_port}/x", follow_redirects=False)
        assert redirect.headers["Location"] == f"https://127.0.0.1:{port}/x"


async def test_hub_and_proxy_of_two_units(tmp_path: Path) -> None:
    """The Hub waits for the proxy, leaves it running, and restores the routes of one that is new."""
    port = free_port()
    config = here(example(HUB_CONFIG, PAGE), tmp_path, port_8000=port)
    config += f"c.CHPProxy.auth_token = {TOKEN!r}\n"
    config += "c.JupyterHub.last_activity_interval = 300\n"  # as it is by default: nobody waits for that
    bind_url = f"http://127.0.0.1:{port}"
    with running(Hub(tmp_path, "config", config=config, bind_url=bind_url, wait=False)) as hub:
        ports = {"port_8000": port, "port_8081": hub.hub_port}
        with running(Service(unit("chp"), tmp_path, **ports)) as service:
            await service.ready()
            hub.wait_for("JupyterHub is now running")
            assert (await fetch(f"{hub.url}/hub/login")).code == 200
            service.kill()
        with running(Service(unit("chp"), tmp_path, **ports)) as service:
            await service.ready()
            gives_up = time.monotonic() + hub.patience
            while (await fetch(f"{hub.url}/hub/login")).code != 200:
                assert time.monotonic() < gives_up, hub.log
                await asyncio.sleep(0.05)
            assert hub.stop() == 0
            assert service.process.poll() is None
            assert (await fetch(f"{hub.url}/hub/login")).code == 503


async def test_tljh(tmp_path: Path) -> None:
    port = free_port()
    config = here(example(TLJH_CONFIG, PAGE), tmp_path) + f"c.CHPProxy.auth_token = {TOKEN!r}\n"
    bind_url = f"http://127.0.0.1:{port}"
    with running(Hub(tmp_path, "config", config=config, bind_url=bind_url, wait=False)) as hub:
        drop_in = example(TLJH_PROXY, PAGE, "ini")
        with running(Service(drop_in, tmp_path, port_80=port, port_15001=hub.hub_port)) as service:
            await service.ready()
            hub.wait_for("JupyterHub is now running")
            assert (await fetch(f"{hub.url}/hub/login")).code == 200
            assert hub.stop() == 0
