"""The configurations of docs/jupyterhub.md: a real JupyterHub starts with each and does what is said."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.commands import fetch, running
from support.examples import PROGRAMS, ROOT, example, examples, here
from support.hub import Hub, hub_api
from support.ports import free_port

PAGE = "docs/jupyterhub.md"
# A part of each that no other has. Those of services are in test_systemd.py.
COMPLETE = "Authenticator.allow_all"
COMMAND = "ConfigurableHTTPProxy.command"
OPTIONS = "CHPProxy.config_file"
HTTPS = "JupyterHub.ssl_key"
INTERNAL_SSL = "JupyterHub.internal_ssl"
SUBDOMAINS = "JupyterHub.subdomain_host"
SOCKETS = 'JupyterHub.bind_url = "http+unix:'
CULLER = "jupyterhub_idle_culler"
SERVICES = ("CHPProxy.should_start = False",)

pytestmark = pytest.mark.timeout(seconds=120)


def test_every_configuration_of_the_page_is_tried() -> None:
    words = (COMPLETE, COMMAND, OPTIONS, HTTPS, INTERNAL_SSL, SUBDOMAINS, SOCKETS, CULLER, *SERVICES)
    assert [block for block in examples(PAGE, "python") if not any(word in block for word in words)] == []


def test_readme_begins_with_the_same_configuration() -> None:
    assert f"<<'END'\n{example(COMPLETE, PAGE)}END\n" in (ROOT / "README.md").read_text()


@contextmanager
def hub_of_page(
    word: str, directory: Path, *, proxy: str = "config", bind_url: str = "", **ports: Any
) -> Iterator[Hub]:
    """Run the Hub with an example, where it listens on other ports and finds its files below a directory."""
    (directory / "etc" / "jupyterhub").mkdir(parents=True, exist_ok=True)
    (directory / "run" / "jupyterhub").mkdir(parents=True)
    config = here(example(word, PAGE), directory, **ports)
    with running(Hub(directory, proxy, config=config, bind_url=bind_url)) as hub:
        yield hub
        assert hub.stop() == 0


async def test_complete_configuration(tmp_path: Path) -> None:
    port = free_port()
    with hub_of_page(COMPLETE, tmp_path, bind_url=f"http://127.0.0.1:{port}", port_8000=port) as hub:
        assert hub.logged("Using Proxy: chp.jupyterhub.CHPProxy")
        assert (await fetch(f"{hub.url}/hub/login")).code == 200


async def test_chosen_command(tmp_path: Path) -> None:
    with hub_of_page(COMMAND, tmp_path, proxy="command") as hub:
        assert f" {PROGRAMS}/chp " in hub.proxy_command
        assert (await fetch(f"{hub.url}/hub/login")).code == 200


async def test_options_from_three_places(tmp_path: Path) -> None:
    metrics = free_port()
    file = tmp_path / "etc" / "jupyterhub" / "chp_config.py"
    file.parent.mkdir(parents=True)
    # What the Hub's configuration says wins over the file: else there would be no metrics.
    file.write_text("c.ConfigurableProxy.metrics_port = 1\nc.ConfigurableProxy.event_loop = 'asyncio'\n")
    with hub_of_page(OPTIONS, tmp_path, port_8002=metrics) as hub:
        assert (await fetch(f"http://127.0.0.1:{metrics}/metrics")).code == 200
        assert " --keep-alive-timeout 30000 " in hub.proxy_command


async def test_https_and_redirects(tmp_path: Path, pki: Any) -> None:
    port, redirect_port = free_port(), free_port()
    certificates = tmp_path / "etc" / "jupyterhub"
    certificates.mkdir(parents=True)
    shutil.copy(pki.key, certificates / "key.pem")
    shutil.copy(pki.cert, certificates / "cert.pem")
    with hub_of_page(HTTPS, tmp_path, port_443=port, port_80=redirect_port):
        page = await fetch(f"https://127.0.0.1:{port}/hub/login", ca_certs=pki.ca)
        assert page.code == 200
        redirect = await fetch(f"http://127.0.0.1:{redirect_port}/hub/login", follow_redirects=False)
        assert redirect.code == 301
        assert redirect.headers["Location"] == f"https://127.0.0.1:{port}/hub/login"


async def test_internal_ssl(tmp_path: Path) -> None:
    with hub_of_page(INTERNAL_SSL, tmp_path, port_8001=free_port()) as hub:
        assert (await hub_api(hub, "GET", "/proxy"))["/"]["target"].startswith("https://")
        assert (tmp_path / "etc" / "jupyterhub" / "internal-ssl").is_dir()


async def test_subdomains(tmp_path: Path) -> None:
    port = free_port()
    hub = hub_of_page(SUBDOMAINS, tmp_path, bind_url=f"http://127.0.0.1:{port}", port_8000=port)
    with hub as running_hub:
        assert "--host-routing" in running_hub.proxy_command
        page = await fetch(f"{running_hub.url}/hub/login", headers={"Host": f"hub.example.com:{port}"})
        assert page.code == 200


async def test_unix_socket(tmp_path: Path) -> None:
    with hub_of_page(SOCKETS, tmp_path):
        connector = aiohttp.UnixConnector(str(tmp_path / "run" / "jupyterhub" / "proxy.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://hub/hub/login") as response,
        ):
            assert response.status == 200


async def test_culler_may_do_what_it_needs(tmp_path: Path) -> None:
    with hub_of_page(CULLER, tmp_path) as hub:
        gives_up = time.monotonic() + hub.patience
        while not hub.logged(r"200 GET /hub/api/users.*\(culler@"):
            assert time.monotonic() < gives_up, hub.log
            await asyncio.sleep(0.02)
        assert not hub.logged(r" 403 ")
