"""The proxy class with the real API behind it, and a Hub that only has what it asks for."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from support.api import Api
from tornado.web import Application, RequestHandler
from traitlets import TraitError
from traitlets.config import Config

from chp import child
from chp import jupyterhub as module
from chp.app import ConfigurableProxy
from chp.errors import ApiError
from chp.jupyterhub import CHPProxy
from chp.processes import Process

HUB = "http://127.0.0.1:8081"


@pytest.fixture(autouse=True)
def settings(caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG, "test.api")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def user(name: str, *servers: str) -> SimpleNamespace:
    user = SimpleNamespace(name=name, proxy_spec=f"/user/{name}/", spawners={})
    for server in servers:
        user.spawners[server] = SimpleNamespace(
            ready=True,
            pending=None,
            proxy_spec=f"/user/{name}/{server}/".replace("//", "/"),
            server=SimpleNamespace(host=f"http://127.0.0.1:90{len(server):02}"),
            _log_name=name,
        )
    return user


def make_proxy(config: dict[str, Any] | None = None, **traits: Any) -> CHPProxy:
    hub = SimpleNamespace(routespec="/", host=HUB, url=f"{HUB}/hub/")
    app = SimpleNamespace(
        hub=hub,
        subdomain_host="",
        internal_ssl=False,
        users={},
        _service_map={},
        log=logging.getLogger("test"),
    )
    options: dict[str, Any] = {"public_url": "http://127.0.0.1:8000", "app": app, "hub": hub, **traits}
    return CHPProxy(config=Config(config or {}), **options)


def directory_of(proxy: CHPProxy) -> Path:
    """Return the private directory, by the API's address."""
    return Path(unquote(proxy.api_url.removeprefix("http+unix://"))).parent


def option_lines(line: list[str]) -> list[str]:
    return Path(line[line.index("--config") + 1]).read_text().splitlines()


@asynccontextmanager
async def proxy_with_api(serve: Any, **traits: Any) -> AsyncIterator[tuple[CHPProxy, Api]]:
    api = Api("secret", limit=1_000_000)
    async with serve(api.application) as server:
        url = f"http://127.0.0.1:{server.port}"
        yield make_proxy(api_url=url, auth_token="secret", **traits), api


def requests(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.name == "test.api"]
    return [line for line in lines if line[0].isdigit()]


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition was not met in time")


# Routes.


async def test_restores_everything_and_the_hub_at_last(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with proxy_with_api(serve) as (proxy, api):
        proxy.app.users = {1: user("ada", "", "second"), 2: user("sp%20ace", "")}
        proxy.app._service_map = {
            "s": SimpleNamespace(name="s", server=SimpleNamespace(host=HUB), proxy_spec="/services/s/")
        }
        proxy.extra_routes = {"/extra/": "http://127.0.0.1:9999"}
        await proxy.restore_routes()
        assert requests(caplog) == ["204 PATCH /api/routes", "201 POST /api/routes/"]
        routes = api.table.routes()
        assert set(routes) == {
            *("/", "/user/ada", "/user/ada/second", "/user/sp ace", "/services/s", "/extra"),
        }
        assert (
            routes["/user/ada/second"].as_json().items()
            >= {
                "user": "ada",
                "server_name": "second",
                "jupyterhub": True,
                "target": "http://127.0.0.1:9006",
            }.items()
        )
        assert routes["/extra"].data["extra"] is True


async def test_checks_with_one_request_for_all_that_is_wrong(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy_with_api(serve) as (proxy, api):
        await proxy.add_route("/", HUB, {"hub": True})
        await proxy.add_route("/user/gone/", HUB, {"user": "gone", "server_name": ""})
        await api.add("/not/from/jupyterhub")
        caplog.clear()
        await proxy.check_routes({1: user("ada", ""), 2: user("bob", "")}, {})
        assert requests(caplog) == ["200 GET /api/routes", "204 PATCH /api/routes"]
        assert set(api.table.routes()) == {"/", "/user/ada", "/user/bob", "/not/from/jupyterhub"}
        caplog.clear()
        await proxy.check_routes({1: user("ada", ""), 2: user("bob", "")}, {})
        assert requests(caplog) == ["200 GET /api/routes"]


async def test_a_route_that_is_refused_keeps_no_other_away(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy_with_api(serve) as (proxy, api):
        proxy.app.users = {number: user(f"u{number}", "") for number in range(5)}
        proxy.app.users[2].spawners[""].server.host = "gopher://old"
        proxy.app.users[3].spawners[""].pending = "stop"  # since it was found to be ready
        await proxy.restore_routes()
        there = {"/", "/user/u0", "/user/u1", "/user/u4"}
        assert set(api.table.routes()) == there
        lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(lines) == 1
        assert lines[0].startswith("A route is not back: ")
        await proxy.delete_route("/user/u0/")
        with pytest.raises((ApiError, RuntimeError)):
            await proxy.check_routes(proxy.app.users, {})
        await until(lambda: set(api.table.routes()) == there)  # after an error it waits for nobody


async def test_a_task_that_outlives_a_check_adds_routes_for_real(serve: Any) -> None:
    """As one that a subclass or a hook of the Hub's starts."""
    async with proxy_with_api(serve) as (proxy, api):
        checked = asyncio.Event()
        started: list[asyncio.Task[None]] = []

        async def later() -> None:
            await checked.wait()
            await proxy.add_route("/later/", HUB, None)
            assert "/later" in api.table.routes()

        class Users(dict):  # type: ignore[type-arg]
            def values(self) -> Any:
                started.append(asyncio.create_task(later()))
                return super().values()

        await proxy.check_routes(Users({1: user("ada", "")}), {})
        checked.set()
        await asyncio.gather(*started)
        assert started
        assert set(api.table.routes()) == {"/", "/user/ada", "/later"}


async def test_the_time_of_a_check_is_the_time_of_its_changes(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What JupyterHub measures, and while no other check may begin."""
    async with proxy_with_api(serve) as (proxy, api):
        there: list[bool] = []
        monkeypatch.setattr(
            "jupyterhub.proxy.CHECK_ROUTES_DURATION_SECONDS",
            SimpleNamespace(observe=lambda seconds: there.append("/user/ada" in api.table.routes())),
        )
        await proxy.check_routes({1: user("ada", "")}, {})
        assert there == [True]


async def test_one_route_is_asked_for_alone(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with proxy_with_api(serve) as (proxy, api):
        await proxy.add_route("/user/a%20b/", HUB, {"user": "a b"})
        await api.add("/other")
        caplog.clear()
        route = await proxy.get_route("/user/a%20b")
        assert route is not None
        assert (route["routespec"], route["target"]) == ("/user/a%20b/", HUB)
        assert route["data"].keys() == {"user", "last_activity"}
        assert await proxy.get_route("/nowhere/") is None
        assert await proxy.get_route("/other/") is None
        assert await proxy.get_route("/") is None
        assert requests(caplog)[:3] == [
            "200 GET /api/routes/user/a%20b",
            "404 GET /api/routes/nowhere",
            "200 GET /api/routes/other",
        ]
        # An answer that is no failure of the Hub's.
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_extra_routes_stay(serve: Any) -> None:
    """Also with characters that JupyterHub escapes when it reads the proxy's table."""
    async with proxy_with_api(serve) as (proxy, api):
        proxy.extra_routes = {"/a+b (c)/": HUB, "/d%2Be/": HUB}
        for _ in range(3):
            await proxy.check_routes({}, {})
            assert set(api.table.routes()) == {"/", "/a+b (c)", "/d+e"}


async def test_deleting_what_is_gone_is_a_warning(serve: Any, log_lines: Any) -> None:
    async with proxy_with_api(serve) as (proxy, _):
        await proxy.delete_route("/nowhere/")


async def test_a_wrong_token_is_final(serve: Any) -> None:
    async with proxy_with_api(serve) as (proxy, _):
        proxy.auth_token = "wrong"
        with pytest.raises(ApiError, match="403 the proxy's API refuses the Hub's token"):
            await proxy.get_all_routes()


async def test_waits_for_a_proxy_that_does_not_answer_yet(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_API_PATIENCE", 0.3)
    proxy = make_proxy(api_url="http://127.0.0.1:1", auth_token="secret")
    failure = "The proxy's API at http://127.0.0.1:1 does not answer: GET /"
    with pytest.raises(asyncio.TimeoutError, match=f"{failure}$"):
        await proxy.get_all_routes()
    proxy.should_start = False
    with pytest.raises(asyncio.TimeoutError, match=rf"{failure}\. The Hub does not start .* does it run\?$"):
        await proxy.get_all_routes()


async def test_the_hubs_route_is_the_last_of_many(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Also when the Hub has just started and finds none: the proxy waits for that route."""
    async with proxy_with_api(serve) as (proxy, api):
        await proxy.check_routes({number: user(f"u{number}", "") for number in range(1500)}, {})
        assert requests(caplog) == ["200 GET /api/routes", *["204 PATCH /api/routes"] * 2]
        assert len(api.table.routes()) == 1501
        assert list(api.table.routes())[-1] == "/"


async def test_nothing_is_tried_again_while_the_hub_stops(tmp_path: Path) -> None:
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    await proxy.start()
    asking = [asyncio.create_task(proxy.add_route(f"/{number}/", HUB, None)) for number in range(3)]
    asking.append(asyncio.create_task(proxy.get_all_routes()))
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in asking)
    await proxy.stop()
    results = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 5)
    assert [(type(result), result.status) for result in results] == [(ApiError, 599)] * 4


# A proxy that somebody else starts.


async def test_a_proxy_that_was_started_again_gets_its_routes(
    serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    ask = CHPProxy._ask_for_instance

    async def note(proxy: CHPProxy) -> Any:
        looks.append(proxy.api_url)
        return await ask(proxy)

    monkeypatch.setattr(CHPProxy, "_ask_for_instance", note)
    again = Api("secret")
    async with proxy_with_api(serve, should_start=False) as (proxy, _), serve(again.application) as server:
        first, away, second = proxy.api_url, "http://127.0.0.1:1", f"http://127.0.0.1:{server.port}"
        proxy.check_running_interval = 1
        proxy.app.users = {1: user("ada", "")}
        await proxy.check_routes(proxy.app.users, {})
        await until(lambda: len(looks) == 2)
        proxy.api_url = away
        await until(lambda: len(looks) == 3)
        assert not [line for line in requests(caplog) if "PATCH" in line][1:]  # it was only looked at
        proxy.api_url = second
        await until(lambda: set(again.table.routes()) == {"/", "/user/ada"})
        # One of several behind one address: known from now on.
        proxy.api_url = first
        await until(lambda: looks[-1:] == [first])
        proxy.api_url = away
        await until(lambda: looks[-1:] == [away])
        assert [line for line in caplog.messages if "started again" in line] == [
            "The proxy was started again: checking its routes"
        ]
        proxy._keeper.cancel()


async def test_a_proxy_that_is_not_to_be_asked_is_not(serve: Any) -> None:
    async with proxy_with_api(serve, should_start=False, check_running_interval=0) as (proxy, _):
        await proxy.check_routes({}, {})
        assert proxy._keeper is None


async def test_a_proxy_that_does_not_tell_its_starts_apart_is_left_alone(serve: Any) -> None:
    """As Node's."""

    class Handler(RequestHandler):
        asked: list[str] = []

        def get(self) -> None:
            self.asked.append(self.request.path)
            self.set_status(404 if self.request.path == "/api/" else 200)
            self.write({"/": {"target": HUB, "hub": True, "jupyterhub": True}})

    async with serve(Application([(".*", Handler)], log_function=lambda handler: None)) as server:
        url = f"http://127.0.0.1:{server.port}"
        proxy = make_proxy(should_start=False, api_url=url, auth_token="secret")
        await proxy.check_routes({}, {})
        await asyncio.wait_for(proxy._keeper, 5)
        assert Handler.asked == ["/api/routes", "/api/"]
        await proxy.check_routes({}, {})  # and asked again when the Hub looks: it may be another one
        await asyncio.wait_for(proxy._keeper, 5)
        assert Handler.asked[2:] == ["/api/routes", "/api/"]


def test_what_has_no_effect_on_a_proxy_that_the_hub_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    options = {"ConfigurableProxy": {"timeout": 5, "metrics_port": 1}}
    traits = {"should_start": False, "auth_token": "secret"}
    make_proxy(options, config_file="x.py", extra_args=["--insecure"], **traits)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == (
        "c.ConfigurableProxy.timeout, c.ConfigurableProxy.metrics_port, c.CHPProxy.config_file, "
        "c.CHPProxy.extra_args: no effect on a proxy that the Hub does not start. "
        "Configure it where it is started."
    )
    caplog.clear()
    make_proxy(**traits)
    make_proxy(options, extra_args=["--insecure"])
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


# The token.


@pytest.mark.parametrize("should_start", [True, False])
def test_a_token_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, should_start: bool) -> None:
    (tmp_path / "token").write_text("of-the-file\n")
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN_FILE", "token")
    assert make_proxy(should_start=should_start).auth_token == "of-the-file"
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "another")
    with pytest.raises(TraitError, match="are both set"):
        make_proxy()
    assert make_proxy(auth_token="configured").auth_token == "configured"
    monkeypatch.delenv("CONFIGPROXY_AUTH_TOKEN")
    (tmp_path / "token").unlink()
    with pytest.raises(TraitError, match=r"CONFIGPROXY_AUTH_TOKEN_FILE: can't read token: No such file"):
        make_proxy()


# The command line.


def test_the_command_line() -> None:
    proxy = make_proxy(command=["chp"], api_url="http://127.0.0.1:8001", ssl_key="k", ssl_cert="c")
    proxy.app.subdomain_host = "http://example.com"
    line = proxy._command_line()
    assert line == [
        *("chp", "--config", line[2]),
        *("--ip", "127.0.0.1", "--port", "8000", "--api-ip", "127.0.0.1", "--api-port", "8001"),
        *("--error-target", f"{HUB}/hub/error", "--log-level", "info", "--wait-for-route", "/"),
        *("--host-routing", "--ssl-key", "k", "--ssl-cert", "c"),
    ]
    proxy._remove_files()


def test_the_api_is_on_a_socket_that_only_this_user_reaches() -> None:
    proxy = make_proxy()
    line = proxy._command_line()
    socket = Path(line[line.index("--api-socket") + 1])
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert proxy.api_url == "http+unix://" + str(socket).replace("/", "%2F")
    proxy._remove_files()
    assert not socket.parent.exists()


def test_options_of_the_proxy_go_through_a_file(tmp_path: Path) -> None:
    proxy = make_proxy({"ConfigurableProxy": {"timeout": 5, "custom_header": ["X-Secret: 1"]}})
    ours = ["c.ConfigurableProxy.timeout = 5", "c.ConfigurableProxy.custom_header = ['X-Secret: 1']"]
    theirs = "c.ConfigurableProxy.drain_timeout = 5000"  # milliseconds
    assert option_lines(proxy._command_line()) == [theirs, *ours]
    (tmp_path / "chp_config.py").write_text("")
    found = f"load_subconfig({str(tmp_path / 'chp_config.py')!r})"
    assert option_lines(proxy._command_line()) == [theirs, found, *ours]
    (tmp_path / "own.py").write_text("")
    proxy.config_file = "own.py"
    named = f"load_subconfig({str(tmp_path / 'own.py')!r})"
    assert option_lines(proxy._command_line()) == [theirs, named, *ours]
    proxy._remove_files()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.json", '{"ConfigurableProxy": {"drain_timeout": 7, "timeout": 8}}'),
        ("own.py", "c.ConfigurableProxy.drain_timeout = 7\nc.ConfigurableProxy.timeout = 8\n"),
    ],
)
def test_what_the_proxy_reads(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    proxy = make_proxy({"ConfigurableProxy": {"timeout": 9}}, config_file=name)
    line = proxy._command_line()
    reader = ConfigurableProxy()
    reader.initialize(line[line.index("--config") :])
    assert (reader.drain_timeout, reader.timeout) == (7, 9)
    proxy.config_file = ""
    line = proxy._command_line()
    reader.initialize(line[line.index("--config") :])
    assert (reader.drain_timeout, reader.timeout) == (5000, 9)
    proxy._remove_files()


@pytest.mark.parametrize("arguments", [["--config", "x.py"], ["--config=x.py"], ["-f", "x.py"]])
def test_a_second_configuration_file_would_hide_the_first(arguments: list[str]) -> None:
    with pytest.raises(TraitError, match=r"extra_args: set c.CHPProxy.config_file instead of --config"):
        make_proxy(extra_args=arguments)._command_line()


def test_appending_to_a_list_in_the_hubs_configuration() -> None:
    config = Config()
    config.ConfigurableProxy.custom_header.append("X-A: 1")
    proxy = make_proxy(config)
    assert proxy._proxy_options() == {"custom_header": ["X-A: 1"]}


@pytest.mark.parametrize(("drain_timeout", "warnings"), [(9_999, 0), (20_000, 1)])
def test_a_drain_that_the_hub_would_cut_short(
    caplog: pytest.LogCaptureFixture, drain_timeout: int, warnings: int
) -> None:
    make_proxy({"ConfigurableProxy": {"drain_timeout": drain_timeout}})._proxy_options()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == warnings
    assert all("drain_timeout is 20 seconds, but the Hub kills the proxy after 10" in line for line in lines)


def test_a_function_cannot_be_passed() -> None:
    with pytest.raises(TraitError, match=r"c.ConfigurableProxy.proxy_request: .* can't be passed"):
        make_proxy({"ConfigurableProxy": {"proxy_request": print}})._command_line()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("auth_token", "c.CHPProxy.auth_token"),
        ("port", "c.JupyterHub.bind_url"),
        ("api_port", "c.CHPProxy.api_url"),
        ("host_routing", "c.JupyterHub.subdomain_host"),
        ("log_level", "c.CHPProxy.log_level"),
    ],
)
def test_what_the_hub_says_is_set_in_one_place(name: str, instead: str) -> None:
    with pytest.raises(TraitError, match=f"c.ConfigurableProxy.{name}: the Hub says that, set {instead}"):
        make_proxy({"ConfigurableProxy": {name: "x"}})._command_line()


@pytest.mark.parametrize(
    ("config", "extra_args"),
    [({"ConfigurableProxy": {"error_path": "/pages"}}, []), ({}, ["--error-path", "/pages"])],
)
def test_error_pages_of_ones_own_take_the_place_of_the_hubs(config: Any, extra_args: list[str]) -> None:
    proxy = make_proxy(config, extra_args=extra_args)
    assert "--error-target" not in proxy._command_line()
    proxy._remove_files()


def test_internal_ssl_has_its_certificates_for_a_port_and_not_for_a_socket() -> None:
    pair = {"keyfile": "key", "certfile": "cert"}
    proxy = make_proxy()
    proxy.app.internal_ssl = True
    proxy.app.internal_proxy_certs = {"proxy-api": pair, "proxy-client": pair}
    proxy.app.internal_trust_bundles = {"proxy-api-ca": "ca", "proxy-client-ca": "ca"}
    assert proxy.api_url == "https://127.0.0.1:8001"
    line = proxy._command_line()
    assert "--api-ssl-cert" in line
    assert "--api-ssl-reject-unauthorized" in line
    assert "--client-ssl-cert" in line
    proxy.api_url = "http+unix://%2Fx.sock"
    line = proxy._command_line()
    assert not [argument for argument in line if argument.startswith("--api-ssl")]
    assert line[-8:] == [
        *("--client-ssl-key", "key", "--client-ssl-cert", "cert", "--client-ssl-ca", "ca"),
        *("--client-ssl-request-cert", "--client-ssl-reject-unauthorized"),
    ]


def test_no_token_is_needed_from_anybody() -> None:
    assert len(make_proxy().auth_token) >= 32


# Processes.

# Says what it is told to in the first argument, and ends with the status in the second.
SAYS_AND_ENDS = """
import os, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
address = os.environ["NOTIFY_SOCKET"]
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), address)
if sys.argv[2] == "stays":
    signal.pause()
sys.exit(int(sys.argv[2]))
"""


def script(tmp_path: Path, says: str, then: str) -> list[str]:
    file = tmp_path / "script.py"
    file.write_text(SAYS_AND_ENDS)
    return [sys.executable, str(file), says, then]


async def test_a_proxy_that_does_not_start_says_why(tmp_path: Path) -> None:
    proxy = make_proxy(command=script(tmp_path, "STATUS=the port is taken", "3"))
    with pytest.raises(RuntimeError, match="did not start, it ended with exit status 3: the port is taken"):
        await proxy.start()
    assert os.listdir(tmp_path) == ["script.py"]


async def test_a_proxy_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    proxy = make_proxy(
        command=script(tmp_path, "STATUS=waiting for a store", "stays"), start_timeout=0.5, stop_timeout=0.1
    )
    with pytest.raises(RuntimeError, match=r"it did not say within 0.5 seconds that .*: waiting for a store"):
        await proxy.start()
    assert proxy.proxy_process.poll() == -9
    assert os.listdir(tmp_path) == ["script.py"]


async def test_a_proxy_that_does_not_end_is_killed(tmp_path: Path) -> None:
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    await proxy.start()
    assert (tmp_path / "jupyterhub-proxy.pid").read_text() == str(proxy.proxy_process.pid)
    await proxy.stop()
    assert proxy.proxy_process.poll() == -9
    assert os.listdir(tmp_path) == ["script.py"]
    await proxy.stop()  # the Hub may clean up twice
    await proxy.start()  # and a test of the Hub's starts it again
    assert directory_of(proxy).is_dir()
    await proxy.stop()
    assert os.listdir(tmp_path) == ["script.py"]


async def test_a_pid_file_that_cannot_be_written_keeps_no_user_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1, pid_file="no/where")
    await proxy.start()
    assert "Can't write c.CHPProxy.pid_file" in caplog.text
    assert proxy.proxy_process.poll() is None
    await proxy.stop()


@pytest.mark.parametrize("content", ["", "garbage", "-1", "0", "99999999999", "1 2"])
async def test_a_pid_file_that_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "jupyterhub-proxy.pid").write_text(content)
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    await proxy.start()
    await proxy.stop()
    assert os.listdir(tmp_path) == ["script.py"]


async def test_a_pid_file_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "jupyterhub-proxy.pid").mkdir()
    proxy = make_proxy()
    assert proxy.api_url  # in a directory that is there by now
    with pytest.raises(IsADirectoryError):
        await proxy.start()
    assert os.listdir(tmp_path) == ["jupyterhub-proxy.pid"]


def test_another_users_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(module, "find_process", lambda pid: Process(["chp"], 0.0))
    monkeypatch.setattr(module.os, "kill", refuse)
    with pytest.raises(ProcessLookupError):
        make_proxy()._check_pid(12345)


@pytest.mark.parametrize(
    ("age", "command", "ours"),
    [
        (1000, "chp --port 1 --x", True),  # it was there when its number was noted
        (495, "chp --port 1", True),  # noted at once, by a clock that is not exact
        (400, "chp --port 1", False),
        (400, "chp --ip 127.0.0.1 --port 80001", False),
        (400, "chp --ip 127.0.0.1 --port 8000", True),  # the clock was set, or it is in the way
        (1000, "sleep 60", False),
    ],
)
def test_a_number_that_another_proxy_has_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, command: str, ours: bool
) -> None:
    pid_file = tmp_path / "jupyterhub-proxy.pid"
    pid_file.write_text("12345")
    noted = time.time() - 500
    os.utime(pid_file, (noted, noted))
    monkeypatch.setattr(module, "find_process", lambda pid: Process(command.split(), age))
    monkeypatch.setattr(module.os, "kill", lambda pid, number: None)
    proxy = make_proxy()
    if ours:
        proxy._check_pid(12345)
        pid_file.unlink()
        proxy._check_pid(12345)
    else:
        with pytest.raises(ProcessLookupError):
            proxy._check_pid(12345)


async def test_what_a_killed_hub_left_is_removed(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    left = short_path / "jupyterhub-proxy-left"
    left.mkdir()
    (left / "chp_config.py").write_text("")
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    await proxy.start()
    there = left.exists(), directory_of(proxy).is_dir()
    await proxy.stop()
    assert there == (False, True)


async def test_a_long_tmpdir_leaves_room_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    await proxy.start()
    directory = directory_of(proxy)
    assert directory.stat().st_mode & 0o777 == 0o700
    await proxy.stop()
    assert not directory.exists()


async def test_a_process_that_cannot_be_watched_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    started: list[Any] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr("threading.Thread.start", refuse)
    monkeypatch.setattr("subprocess.Popen", Popen)
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await proxy.start()
    assert [process.returncode for process in started] == [-9]


async def test_a_stop_is_final_after_two_ends_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second end comes while the routes are restored after the first."""
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.01)
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    restoring = 0
    finish = asyncio.Event()

    async def restore_routes() -> None:
        nonlocal restoring
        restoring += 1
        await finish.wait()
        raise RuntimeError("as if the proxy had not answered")

    monkeypatch.setattr(proxy, "restore_routes", restore_routes)
    await proxy.start()
    for number in (1, 2):
        proxy.proxy_process.kill()
        await until(lambda number=number: restoring == number)
    await proxy.stop()
    finish.set()
    await asyncio.sleep(0.1)
    assert proxy.proxy_process.poll() is not None
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, others
    assert os.listdir(tmp_path) == ["script.py"]


async def test_a_stop_on_another_loop_is_final(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """JupyterHub's tests clean up in a thread, while the Hub's own loop waits."""
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    await proxy.start()
    keeper = proxy._keeper
    thread = threading.Thread(target=lambda: asyncio.run(proxy.stop()))
    thread.start()
    thread.join()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(keeper, 10)
    assert "The proxy was killed" not in caplog.text
    assert os.listdir(tmp_path) == ["script.py"]


async def test_a_private_directory_that_was_taken_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cleaners of /tmp do; somebody else may have made one of that name since."""
    proxy = make_proxy(command=script(tmp_path, "READY=1", "stays"), stop_timeout=0.1)
    restored = asyncio.Event()

    async def restore_routes() -> None:
        restored.set()

    monkeypatch.setattr(proxy, "restore_routes", restore_routes)
    await proxy.start()
    before = directory_of(proxy)
    shutil.rmtree(before)
    proxy.proxy_process.kill()
    await asyncio.wait_for(restored.wait(), 10)
    assert directory_of(proxy) != before
    assert directory_of(proxy).is_dir()
    await proxy.stop()


async def test_nothing_leaks_with_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LONG_ENOUGH", 0.0)
    # Python would take seconds for twenty starts.
    quick = tmp_path / "quick.sh"
    quick.write_text(
        "#!/bin/sh\nexec perl -MSocket -e 'socket(S, AF_UNIX, SOCK_DGRAM, 0);"
        ' send(S, "READY=1", 0, sockaddr_un($ENV{NOTIFY_SOCKET})); sleep 60\'\n'
    )
    quick.chmod(0o755)
    proxy = make_proxy(command=[str(quick)])
    restored = 0

    async def restore_routes() -> None:
        nonlocal restored
        restored += 1

    monkeypatch.setattr(proxy, "restore_routes", restore_routes)
    await proxy.start()
    counts = []
    for number in range(1, 22):
        proxy.proxy_process.kill()
        await until(lambda number=number: restored == number)
        counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    assert counts[0] == counts[-1]
    await proxy.stop()


async def test_a_proxy_that_keeps_ending_is_started_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.015)
    monkeypatch.setattr(module, "_LONGEST_DELAY", 0.05)
    proxy = make_proxy(command=script(tmp_path, "READY=1", "1"))
    delays: list[float] = []
    enough = asyncio.Event()
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds != child._LOOK_INTERVAL:
            delays.append(seconds)
            if len(delays) == 5:
                enough.set()
        await sleep(seconds)

    async def restore_routes() -> None:
        await sleep(60)  # it has no proxy to restore them to

    monkeypatch.setattr(proxy, "restore_routes", restore_routes)
    monkeypatch.setattr(asyncio, "sleep", note)
    await proxy.start()
    await asyncio.wait_for(enough.wait(), 20)
    await proxy.stop()
    assert delays[:5] == [0.0, 0.015, 0.03, 0.05, 0.05]
