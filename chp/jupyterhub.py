"""JupyterHub's proxy class: starts ``chp``, looks after it, and tells it the routes.

It runs in the Hub's process, and the proxy never imports it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import ssl
import sys
from pathlib import Path
from time import monotonic, time
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from jupyterhub.objects import Server
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.traitlets import Command
from jupyterhub.utils import exponential_backoff, make_ssl_context, url_path_join
from traitlets import Float, Integer, List, TraitError, Unicode, default, validate
from traitlets.config.loader import LazyConfigValue
from traitlets.utils.bunch import Bunch

from chp.api_client import fetch
from chp.child import Child
from chp.config.token import token_from_environment
from chp.errors import ApiError, ConfigError
from chp.notify import NotifyListener
from chp.private_directory import PrivateDirectory, remove_left_behind
from chp.processes import find_process
from chp.route_changes import Change, RouteChanges

# Seconds in which a request to the API is tried again, and at most between two attempts.
_API_PATIENCE = 30
_API_INTERVAL = 0.5
# Seconds until the first, and at most between two attempts to start a proxy that does not stay.
_FIRST_DELAY = 1.0
_LONGEST_DELAY = 30.0
# Seconds of running after which the next end is no longer the same trouble.
_LONG_ENOUGH = 60.0
# Seconds that a clock may be wrong by.
_CLOCK_ERROR = 10.0

# Options of the proxy that are others under a Hub; whoever configures it may change them.
_DEFAULTS = {"drain_timeout": 5000}  # milliseconds; less than stop_timeout

# What the Hub itself says on the command line, and its own option for it.
_HUB_SAYS = {
    "auth_token": "c.CHPProxy.auth_token",
    "ip": "c.JupyterHub.bind_url",
    "port": "c.JupyterHub.bind_url",
    "socket": "c.JupyterHub.bind_url",
    "api_ip": "c.CHPProxy.api_url",
    "api_port": "c.CHPProxy.api_url",
    "api_socket": "c.CHPProxy.api_url",
    "host_routing": "c.JupyterHub.subdomain_host",
    "log_level": "c.CHPProxy.log_level",
}


class CHPProxy(ConfigurableHTTPProxy):  # type: ignore[misc]  # JupyterHub has no types
    """Runs ``chp`` as JupyterHub's proxy: ``c.JupyterHub.proxy_class = "chp"``.

    Options of the proxy stand beside those of the Hub, in ``jupyterhub_config.py``::

        c.ConfigurableProxy.timeout = 3_600_000

    or in a file of their own (``c.CHPProxy.config_file``), or as arguments
    (``c.CHPProxy.extra_args``). What the Hub itself has to say (addresses,
    certificates, the error target, the log level) comes last and wins. Everything
    that can be set for ``ConfigurableHTTPProxy`` can be set here too.
    """

    command = Command(
        config=True,
        help="""
        The command that starts the proxy.

        By default it is ``python -m chp`` with the Python that runs the Hub, and never something
        of the same name that happens to be on the PATH. It has to pass its environment on.
        """,
    )

    @default("command")
    def _default_command(self) -> list[str]:
        return [sys.executable, "-m", "chp"]

    config_file = Unicode(
        "",
        config=True,
        help="""
        A configuration file for the proxy.

        Without it the proxy reads ``chp_config.py`` in the Hub's working directory, if there is
        one. ``c.ConfigurableProxy...`` in ``jupyterhub_config.py`` overrides what the file says.
        """,
    )

    extra_args = List(
        Unicode(),
        config=True,
        help="""
        More arguments for the proxy, for example ``["--storage-backend", "my.store.Store"]``.

        Every user of the machine can read them while the proxy runs: secrets belong into a file.
        """,
    )

    start_timeout = Float(
        15.0,
        config=True,
        help="How many seconds the proxy gets to be ready for requests.",
    )

    stop_timeout = Float(
        10.0,
        config=True,
        help="""
        How many seconds the proxy gets to end before it is killed.

        It should be more than the proxy's own ``drain_timeout``, in which requests that are under
        way may finish: with this class that is 5 seconds, unless you set it.
        """,
    )

    check_running_interval = Integer(
        5,
        min=0,
        config=True,
        help="""
        How often, in seconds, a proxy that somebody else starts is asked whether it was started again.

        Then it gets its routes. With 0 it is not asked, and gets them when the Hub looks next, every
        ``c.JupyterHub.last_activity_interval`` seconds. The option has no meaning for a proxy that
        the Hub starts: the end of that one is noticed at once.
        """,
    )

    @default("auth_token")
    def _default_auth_token(self) -> str:
        """Beside JupyterHub's ways, from the file that CONFIGPROXY_AUTH_TOKEN_FILE names."""
        try:
            token = token_from_environment()
        except ConfigError as error:
            raise TraitError(str(error)) from None
        return token or str(self._auth_token_default())

    @default("api_url")
    def _default_api_url(self) -> str:
        """By default, a socket in a directory that nobody else can enter.

        With ``internal_ssl``, whose point are certificates, and for a proxy that somebody else
        starts, it is an address and port as it is for ConfigurableHTTPProxy.
        """
        if self.app.internal_ssl or not self.should_start:
            url: str = super()._api_url_default()
            return url
        self._api_is_private = True
        return self._private_api_url()

    @validate("extra_routes")
    def _validate_extra_routes(self, proposal: Bunch) -> dict[str, str]:
        """Escape their paths as JupyterHub does with what the proxy shows, or it takes them for stale."""
        routes: dict[str, str] = super()._validate_extra_routes(proposal)
        return {quote(unquote(spec), safe="@/~"): target for spec, target in routes.items()}

    def __init__(self, **kwargs: Any) -> None:
        self._directory = PrivateDirectory()
        self._api_is_private = False
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopped = False
        self._changes = RouteChanges(self._send_changes)
        super().__init__(**kwargs)
        if not self.should_start:
            self._warn_of_what_has_no_effect()

    def _warn_of_what_has_no_effect(self) -> None:
        names = [f"c.ConfigurableProxy.{name}" for name in self.config.get("ConfigurableProxy", {})]
        names += [f"c.CHPProxy.{name}" for name in ("config_file", "extra_args") if getattr(self, name)]
        if names:
            self.log.warning(
                "%s: no effect on a proxy that the Hub does not start. Configure it where it is started.",
                ", ".join(names),
            )

    # -- Starting and stopping ---------------------------------------------------------

    async def start(self) -> None:
        """Start the proxy, and see to it that it runs until :meth:`stop`.

        Raises ``RuntimeError``, with the reason in the proxy's own words, if it does not start.
        """
        self._stopped = False
        if not self.ssl_cert:
            self.log.warning(
                "Running JupyterHub without SSL. I hope there is SSL termination happening somewhere else..."
            )
        try:
            self._check_previous_process()
            remove_left_behind()
            child = await self._launch()
        except BaseException:
            self._remove_files()  # the Hub ends without a call of stop()
            raise
        self._keeper = asyncio.create_task(self._keep_running(child))

    async def stop(self) -> None:
        """End the proxy: in order (SIGTERM), and by force after ``stop_timeout``."""
        self._stopped = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper.get_loop() is asyncio.get_running_loop():
            keeper.cancel()
            await asyncio.wait([keeper])  # it may have begun to start another one
        elif keeper is not None:  # the Hub may clean up on another loop
            with contextlib.suppress(RuntimeError):  # its own has been closed
                keeper.get_loop().call_soon_threadsafe(keeper.cancel)
        if self._child is not None:
            self.log.info("Stopping the proxy (pid %i)", self._child.process.pid)
            await self._end(self._child)
        self._remove_files()

    async def _launch(self) -> Child:
        if self._api_is_private:
            self.api_url = self._private_api_url()  # the directory may be another one than before
        command = self._command_line()
        listener = NotifyListener(self._directory.path("notify.sock"))
        try:
            self._child = child = self._start_child(command, listener.environment)
            self.proxy_process = child.process  # JupyterHub's name
            try:
                self._write_pid_file()
                await child.wait_until_ready(listener, self.start_timeout)
            except BaseException as error:
                await self._end(child)
                self._remove_pid()
                if isinstance(error, RuntimeError):
                    raise RuntimeError(f"The proxy did not start, {error}") from None
                raise
        finally:
            listener.close()
        return child

    def _start_child(self, command: list[str], environment: dict[str, str]) -> Child:
        environment = {**os.environ, **environment, "CONFIGPROXY_AUTH_TOKEN": self.auth_token}
        environment.pop("CONFIGPROXY_AUTH_TOKEN_FILE", None)  # only one of the two may be there
        environment["PYTHONSAFEPATH"] = "1"  # the Hub's directory may have a redis.py
        self.log.info("Starting the proxy @ %s", Server.from_url(self.public_url).bind_url)
        self.log.debug("Proxy command: %s", command)
        try:
            # JupyterHub 5 has no command_umask.
            return Child(command, environment, umask=getattr(self, "command_umask", -1))
        except OSError as error:
            raise RuntimeError(
                f"Can't run the proxy's command {command[0]!r}: {error.strerror}. See c.CHPProxy.command."
            ) from None

    async def _end(self, child: Child) -> None:
        if await child.end(self.stop_timeout):
            self.log.warning("The proxy did not end within %g seconds: killed it", self.stop_timeout)

    async def _keep_running(self, child: Child) -> None:
        """Start the proxy again whenever it has ended: at once, and then less and less often."""
        delay = 0.0
        restoring: asyncio.Task[None] | None = None
        try:
            while True:
                started_at = monotonic()
                how = await child.ended()
                if restoring is not None:
                    restoring.cancel()
                self.log.error("The proxy %s", how)
                if monotonic() - started_at > _LONG_ENOUGH:
                    delay = 0.0
                while not child.runs:
                    await asyncio.sleep(delay)
                    delay = min(max(_FIRST_DELAY, 2 * delay), _LONGEST_DELAY)
                    try:
                        self._remove_pid()
                        child = await self._launch()
                    except Exception as error:
                        self.log.error("The proxy is not back, next attempt in %g s: %s", delay, error)
                restoring = asyncio.create_task(self._restore_at_last())
        finally:
            if restoring is not None:
                restoring.cancel()

    async def check_routes(self, *args: Any, **kwargs: Any) -> None:
        """Repair the routes, as JupyterHub's; and watch a proxy that somebody else starts, from now on."""
        await super().check_routes(*args, **kwargs)
        watched = self._keeper is not None and not self._keeper.done()
        if not self.should_start and self.check_running_interval and not watched:
            self._keeper = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Check the routes whenever a process answers that did not before: it may have none."""
        known = {"", await self._ask_for_instance()}
        while None not in known:
            await asyncio.sleep(self.check_running_interval)
            instance = await self._ask_for_instance()
            if instance in known:
                continue
            self.log.warning("The proxy was started again: checking its routes")
            try:
                await self.check_routes(self.app.users, self.app._service_map)
            except Exception as error:
                self.log.error(
                    "The routes are not back, next attempt in %i s: %s", self.check_running_interval, error
                )
            else:
                known.add(instance)

    async def _ask_for_instance(self) -> str | None:
        """Return what tells one process of a proxy from the next.

        Empty if it does not answer; None if it is a proxy that does not say, such as that of Node.
        """
        url = url_path_join(self.api_url, "api/")
        try:
            answer = await fetch(url, method="GET", token=self.auth_token, tls=self._api_tls(url))
            return str(json.loads(answer)["instance"])
        except ApiError as error:
            return "" if error.status >= 500 else None
        except (ValueError, KeyError, TypeError):
            return None

    async def _restore_at_last(self) -> None:
        while True:
            try:
                await self.restore_routes()
                return
            except Exception as error:
                self.log.error("The routes are not back, next attempt in %g s: %s", _FIRST_DELAY, error)
            await asyncio.sleep(_FIRST_DELAY)

    # -- The command line --------------------------------------------------------------

    def _command_line(self) -> list[str]:
        options = self._proxy_options()
        command = [*self.command, *self._config_arguments(options), *self.extra_args]
        command += self._address_arguments(self.public_url, "")
        command += self._address_arguments(self.api_url, "api-")
        pages = {"error_path", "error_target"} & options.keys()
        if not pages and not any(argument.startswith("--error-") for argument in self.extra_args):
            command += ["--error-target", url_path_join(self.hub.url, "error")]
        command += ["--log-level", self.log_level]
        command += ["--wait-for-route", unquote(self._routespec_to_chp_path(self.hub.routespec))]
        if self.app.subdomain_host:
            command.append("--host-routing")
        if self.ssl_key:
            command += ["--ssl-key", self.ssl_key]
        if self.ssl_cert:
            command += ["--ssl-cert", self.ssl_cert]
        if self.app.internal_ssl:
            command += self._internal_ssl_arguments()
        return command

    def _internal_ssl_arguments(self) -> list[str]:
        arguments: list[str] = self._get_ssl_options()
        if urlsplit(self.api_url).scheme != "http+unix":
            return arguments
        # On a socket the API speaks no TLS: it is the socket that nobody else reaches.
        return arguments[arguments.index("--client-ssl-key") :]

    def _proxy_options(self) -> dict[str, Any]:
        """Return ``c.ConfigurableProxy`` of the Hub's configuration. Raises ``TraitError``."""
        options = dict(self.config.get("ConfigurableProxy", {}))
        for name, set_value in options.items():
            if name in _HUB_SAYS:
                raise TraitError(f"c.ConfigurableProxy.{name}: the Hub says that, set {_HUB_SAYS[name]}")
            lazy = isinstance(set_value, LazyConfigValue)  # c.ConfigurableProxy.custom_header.append(...)
            options[name] = value = set_value.get_value([]) if lazy else set_value
            try:
                ast.literal_eval(repr(value))
            except (ValueError, SyntaxError):
                raise TraitError(
                    f"c.ConfigurableProxy.{name}: {type(value).__name__} can't be passed to another "
                    "process. Set it in a file of its own (c.CHPProxy.config_file)."
                ) from None
        drain_timeout = options.get("drain_timeout", 0)
        if isinstance(drain_timeout, int) and drain_timeout >= self.stop_timeout * 1000:
            self.log.warning(
                "c.ConfigurableProxy.drain_timeout is %g seconds, but the Hub kills the proxy after %g: "
                "c.CHPProxy.stop_timeout has to be more.",
                drain_timeout / 1000,
                self.stop_timeout,
            )
        return options

    def _config_arguments(self, options: dict[str, Any]) -> list[str]:
        """Write the proxy's options to a file, because any user of the machine can read command lines."""
        if any(argument.partition("=")[0] in ("--config", "-f") for argument in self.extra_args):
            raise TraitError("c.CHPProxy.extra_args: set c.CHPProxy.config_file instead of --config")
        own = os.path.abspath(self.config_file or "chp_config.py")
        if self.config_file and not os.path.isfile(own):
            raise TraitError(f"c.CHPProxy.config_file: no file {own}")
        lines = [f"c.ConfigurableProxy.{name} = {value!r}" for name, value in _DEFAULTS.items()]
        if own.endswith(".json"):
            lines.append("from traitlets.config.loader import JSONFileConfigLoader")
            lines.append(f"c.merge(JSONFileConfigLoader({own!r}).load_config())")
        elif os.path.isfile(own):
            lines.append(f"load_subconfig({own!r})")
        lines += [f"c.ConfigurableProxy.{name} = {value!r}" for name, value in options.items()]
        path = self._directory.path("chp_config.py")
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return ["--config", path]

    def _address_arguments(self, url: str, prefix: str) -> list[str]:
        if urlsplit(url).scheme == "http+unix":
            return [f"--{prefix}socket", _socket_path(url)]
        server = Server.from_url(url)
        return [f"--{prefix}ip", server.ip, f"--{prefix}port", str(server.port)]

    # -- Routes ------------------------------------------------------------------------

    async def restore_routes(self) -> None:
        """Give a new proxy all routes: the Hub's, those of users and services, and ``extra_routes``.

        The Hub's comes last, because the proxy waits for it before it answers anybody. Raises
        ``TimeoutError``; a route that can't be added is an error in the log.
        """
        self.log.info("Setting up routes on new proxy")
        results = await asyncio.gather(
            self.add_all_users(self.app.users),
            self.add_all_services(self.app._service_map),
            *(self.add_route(spec, target, {"extra": True}) for spec, target in self.extra_routes.items()),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, asyncio.TimeoutError):  # the builtin one only since Python 3.11
                raise result
            if isinstance(result, BaseException):
                self.log.error("A route is not back: %s", result)
        await self.add_hub_route(self.app.hub)
        self.log.info("New proxy back up and good to go")

    async def add_hub_route(self, hub: Any) -> None:
        """Add the Hub's route, after all others: the proxy waits for it before it answers anybody."""
        await asyncio.sleep(0)  # those that are asked for in the same turn have their place now
        await super().add_hub_route(hub)

    async def delete_route(self, routespec: str) -> None:
        """Delete a route; none is there when this returns. Raises ``ApiError`` or ``TimeoutError``."""
        try:
            await super().delete_route(routespec)
        except ApiError as error:
            if error.status != 404:
                raise
            self.log.warning("Route %s already deleted", routespec)

    async def get_route(self, routespec: str) -> dict[str, Any] | None:
        """Return one of JupyterHub's routes, or None. Only this one is asked for."""
        path = self._routespec_to_chp_path(routespec)
        if path == "/":  # where the API shows the whole table
            everything: dict[str, dict[str, Any]] = await self.get_all_routes()
            return everything.get("/")
        try:
            data = await (await self.api_request(path)).json()
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if "jupyterhub" not in data:
            return None
        route: dict[str, Any] = self._reformat_routespec(self.validate_routespec(routespec), data)
        return route

    async def api_request(
        self, path: str, method: str = "GET", body: dict[str, Any] | None = None, client: object = None
    ) -> _Answer:
        """Ask the proxy's API what JupyterHub wants to know or to change about routes.

        ``path`` is that of a route, percent-encoded; ``client`` is there because JupyterHub 5
        passes one. A change is made after all that were asked for before, and may travel together
        with others. Raises :class:`~chp.errors.ApiError` for an answer that is final,
        ``TimeoutError`` if none came in 30 seconds.
        """
        if method == "GET":
            return await self._ask("GET", path)
        await self._changes.make(path, body)  # a DELETE has none
        return _Answer(b"")

    async def _send_changes(self, changes: dict[str, Change]) -> None:
        if len(changes) > 1:
            await self._ask("PATCH", "", {unquote(path): change for path, change in changes.items()})
            return
        [(path, change)] = changes.items()
        await self._ask("DELETE" if change is None else "POST", path, change)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> _Answer:
        """Ask until there is an answer that is final. The proxy may just be starting."""
        content = None if body is None else json.dumps(body)
        failed = False

        async def attempt() -> _Answer | None:
            nonlocal failed
            url = url_path_join(self.api_url, "api/routes", path)  # that of a new proxy, when it is
            self.log.debug("Proxy: %s %s", method, url)
            async with self.semaphore:
                try:
                    return _Answer(
                        await fetch(
                            url, method=method, token=self.auth_token, body=content, tls=self._api_tls(url)
                        )
                    )
                except ApiError as error:
                    if error.status == 403:
                        text = "the proxy's API refuses the Hub's token: does its configuration have another?"
                        raise ApiError(403, text) from None
                    if error.status < 500 or self._stopped:
                        raise
                    if not failed:
                        self.log.warning(
                            "The proxy's API, %s %s: %s, trying again", method, path or "/", error
                        )
                    failed = True
                    return None

        failure = f"The proxy's API at {self.api_url} does not answer: {method} {path or '/'}"
        if not self.should_start:
            failure += ". The Hub does not start this proxy (c.CHPProxy.should_start): does it run?"
        answer: _Answer = await exponential_backoff(
            attempt, failure, timeout=_API_PATIENCE, max_wait=_API_INTERVAL
        )
        return answer

    def _api_tls(self, url: str) -> ssl.SSLContext | None:
        """With ``internal_ssl``, the Hub shows its certificate to the API."""
        if not self.app.internal_ssl or not url.startswith("https:"):
            return None
        context: ssl.SSLContext = make_ssl_context(
            self.app.internal_ssl_key, self.app.internal_ssl_cert, cafile=self.app.internal_ssl_ca
        )
        return context

    # -- Files -------------------------------------------------------------------------

    def _private_api_url(self) -> str:
        return "http+unix://" + quote(self._directory.path("api.sock"), safe="")

    def _check_pid(self, pid: int) -> None:
        """Raise ``ProcessLookupError`` unless this is the proxy of an earlier Hub. JupyterHub ends it."""
        found = find_process(pid)
        if found is None or not found.is_proxy:
            raise ProcessLookupError(pid)
        # A number may have been given to another Hub's proxy since it was noted. But a clock may
        # have been set, too, and what has our address is in the way.
        noted = 0.0
        with contextlib.suppress(FileNotFoundError):  # a proxy that has it for --pid-file
            noted = time() - os.stat(self.pid_file).st_mtime
        address = " ".join(self._address_arguments(self.public_url, ""))
        if found.age < noted - _CLOCK_ERROR and f" {address} " not in " ".join(found.command) + " ":
            raise ProcessLookupError(pid)
        try:
            os.kill(pid, 0)
        except PermissionError:  # another user's
            raise ProcessLookupError(pid) from None

    def _write_pid_file(self) -> None:
        try:
            super()._write_pid_file()
        except OSError as error:  # a full disk is no reason to leave users without a proxy
            self.log.error("Can't write c.CHPProxy.pid_file, by which another Hub finds the proxy: %s", error)

    def _remove_pid(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.pid_file)

    def _remove_files(self) -> None:
        """Remove what a proxy may leave that was killed."""
        self._remove_pid()
        for url in (self.public_url, self.api_url):
            if urlsplit(url).scheme == "http+unix":
                with contextlib.suppress(OSError):
                    os.unlink(_socket_path(url))
        self._directory.remove()


class _Answer:
    """An answer of the API, in the form of both of JupyterHub's clients, that of 5 and that of 6."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def json(self) -> Any:
        return json.loads(self.body)


def _socket_path(url: str) -> str:
    return unquote(urlsplit(url).netloc)
