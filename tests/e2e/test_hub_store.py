"""JupyterHub with proxies that keep their routes: users' servers need no Hub to be found again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from support.commands import PATIENCE, TOKEN, Proxy, running
from support.hub import Hub, browser, hub_api
from support.ports import free_port
from support.wire import until

pytestmark = pytest.mark.timeout(seconds=120)

CONFIG = """
c.JupyterHub.proxy_class = {proxy_class!r}
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.auth_token = {token!r}
c.JupyterHub.cleanup_servers = True
"""


class Proxies:
    """Replicas on one port, which something other than the Hub starts."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.port = free_port()
        self.api_port = free_port()
        self._directory = directory
        self._stack = stack
        self._count = 0

    def start(self) -> Proxy:
        self._count += 1
        directory = self._directory / f"proxy{self._count}"
        directory.mkdir()
        ports = ("--port", str(self.port), "--api-port", str(self.api_port), "--reuse-port")
        store = ("--storage-url", f"sqlite:///{self._directory}/chp.sqlite")
        return self._stack.enter_context(running(Proxy(directory, *ports, *store)))


@pytest.fixture
def proxies(tmp_path: Path) -> Iterator[Proxies]:
    with ExitStack() as stack:
        yield Proxies(tmp_path, stack)


@pytest.mark.parametrize("proxy_class", ["chp", "configurable-http-proxy"])
async def test_servers_answer_after_a_kill_while_the_hub_stands_still(
    proxies: Proxies, tmp_path: Path, proxy_class: str
) -> None:
    proxy = proxies.start()
    config = CONFIG.format(proxy_class=proxy_class, api_port=proxies.api_port, token=TOKEN)
    url = f"http://127.0.0.1:{proxies.port}"
    with running(Hub(tmp_path, "config", config=config, bind_url=url)) as hub:
        async with browser(hub, "ada") as user:
            await user.start_server()
            kernel = await user.start_kernel()
            assert await user.run_code(kernel, "print(6 * 7)") == "42\n"
            hub.process.send_signal(signal.SIGSTOP)
            try:
                proxy.kill()
                with pytest.raises(aiohttp.ClientConnectionError):
                    await user.status()
                killed = time.monotonic()
                proxy = proxies.start()
                assert await user.status() == 200
                assert time.monotonic() - killed < PATIENCE / 4
                assert await user.run_code(kernel, "print(7 * 7)") == "49\n"
            finally:
                hub.process.send_signal(signal.SIGCONT)
            assert "/user/ada/" in await hub_api(hub, "GET", "/proxy")
        assert hub.stop() == 0


async def test_one_of_two_proxies_is_enough(proxies: Proxies, tmp_path: Path) -> None:
    first, second = proxies.start(), proxies.start()
    config = CONFIG.format(proxy_class="chp", api_port=proxies.api_port, token=TOKEN)
    url = f"http://127.0.0.1:{proxies.port}"
    with running(Hub(tmp_path, "config", config=config, bind_url=url)) as hub:
        # It has told one of them its own route; the other hears of it in some milliseconds.
        await until(lambda: all(proxy.logged(r"[Rr]oute (added )?/ -> ") for proxy in (first, second)))
        async with browser(hub, "ada") as user, browser(hub, "ben") as other:
            await user.start_server()
            first.kill()
            assert await user.status() == 200
            await other.start_server()  # the Hub tells the proxy that is left
            first = proxies.start()
            second.kill()
            assert await user.status() == 200
            assert await other.status() == 200
            await hub_api(hub, "DELETE", "/users/ben/server")
            await until(lambda: first.logged("Removing route /user/ben"), PATIENCE)
        assert hub.stop() == 0
