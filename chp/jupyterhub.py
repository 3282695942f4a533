"""JupyterHub's proxy class: starts ``chp``, looks after it, and tells it the routes.

It runs in the Hub's process, and the proxy never imports it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from jupyterhub.objects import Server
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.traitlets import Command
from jupyterhub.utils import exponential_backoff, make_ssl_context, url_path_join
from traitlets import Float, List, TraitError, Unicode, default
from traitlets.config.loader import LazyConfigValue

from chp.api_client import fetch
from chp.child import Child
from chp.errors import ApiError
from chp.notify import NotifyListener
from chp.processes import is_proxy

Changes = dict[str, dict[str, Any] | None]

# Where changes are collected instead of made, if they are: by the API's path, None to remove it.
_collected: ContextVar[Changes | None] = ContextVar("collected", default=None)
# Routes in one request: about a quarter of what --api-max-body-size allows by default.
_ROUTES_PER_REQUEST = 1000
# Seconds in which a request to the API is tried again.
_API_PATIENCE = 30
# Seconds until the first, and at most between two attempts to start a proxy that does not stay.
_FIRST_DELAY = 1.0
_LONGEST_DELAY = 30.0
# Seconds of running after which the next end is no longer the same trouble.
_LONG_ENOUGH = 60.0


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
        35.0,
        config=True,
        help="""
        How many seconds the proxy gets to end before it is killed.

        It should be more than the proxy's own ``drain_timeout`` (30 seconds by default), in which
        requests that are under way may finish.
        """,
    )

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

    def __init__(self, **kwargs: Any) -> None:
        self._directory = ""
        self._api_is_private = False
        self._child: Child | None = None
        self._stopping = False
        self._started_at = 0.0
        self._delay = 0.0  # seconds before the next attempt to start it again
        self._restarting: asyncio.Task[None] | None = None
        super().__init__(**kwargs)

    # -- Starting and stopping ---------------------------------------------------------

    async def start(self) -> None:
        """Start the proxy, and see to it that it runs until :meth:`stop`.

        Raises ``RuntimeError``, with the reason in the proxy's own words, if it does not start.
        """
        self._stopping = False
        if not self.ssl_cert:
            self.log.warning(
                "Running JupyterHub without SSL. I hope there is SSL termination happening somewhere else..."
            )
        if self._api_is_private:
            self.api_url = self._private_api_url()  # stop() has removed the last one
        self._check_previous_process()
        try:
            await self._launch()
        except BaseException:
            self._remove_files()  # the Hub ends without a call of stop()
            raise

    async def stop(self) -> None:
        """End the proxy: in order (SIGTERM), and by force after ``stop_timeout``."""
        self._stopping = True
        if self._restarting is not None:
            self._restarting.cancel()
        if self._child is not None:
            self.log.info("Stopping the proxy (pid %i)", self._child.process.pid)
            await self._end(self._child)
        self._remove_files()

    async def _launch(self) -> None:
        command = self._command_line()
        listener = NotifyListener(os.path.join(self._private_directory(), "notify.sock"))
        try:
            self._child = child = self._start_child(command, listener.environment)
            self.proxy_process = child.process  # JupyterHub's name
            self._started_at = monotonic()
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
        child.when_ended(self._ended)

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

    def _ended(self, how: str) -> None:
        """The proxy has ended, by itself or because of :meth:`stop`."""
        if not self._stopping:
            self.log.error("The proxy %s", how)
            self._restarting = asyncio.ensure_future(self._start_again())

    async def _start_again(self) -> None:
        """Start the proxy and restore its routes: at once, and then less and less often."""
        if monotonic() - self._started_at > _LONG_ENOUGH:
            self._delay = 0.0
        while True:
            await asyncio.sleep(self._delay)
            self._delay = min(max(_FIRST_DELAY, 2 * self._delay), _LONGEST_DELAY)
            try:
                if self._child is None or not self._child.runs:
                    self._remove_pid()
                    await self._launch()
                await self.restore_routes()
                return
            except Exception as error:
                self.log.error("The proxy is not back, next attempt in %g s: %s", self._delay, error)

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
        if "auth_token" in options:
            raise TraitError("c.ConfigurableProxy.auth_token: the Hub has the same, as c.CHPProxy.auth_token")
        for name, set_value in options.items():
            lazy = isinstance(set_value, LazyConfigValue)  # c.ConfigurableProxy.custom_header.append(...)
            options[name] = value = set_value.get_value([]) if lazy else set_value
            try:
                ast.literal_eval(repr(value))
            except (ValueError, SyntaxError):
                raise TraitError(
                    f"c.ConfigurableProxy.{name}: {type(value).__name__} can't be passed to another "
                    "process. Set it in a file of its own (c.CHPProxy.config_file)."
                ) from None
        return options

    def _config_arguments(self, options: dict[str, Any]) -> list[str]:
        own = os.path.abspath(self.config_file) if self.config_file else ""
        if own and not os.path.isfile(own):
            raise TraitError(f"c.CHPProxy.config_file: no file {own}")
        if not options:
            return ["--config", own] if own else []
        # In a file, because every user of the machine can read command lines.
        first = own or os.path.abspath("chp_config.py")
        lines = [f"load_subconfig({first!r})"] if os.path.isfile(first) else []
        lines += [f"c.ConfigurableProxy.{name} = {value!r}" for name, value in options.items()]
        path = Path(self._private_directory()) / "chp_config.py"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return ["--config", str(path)]

    def _address_arguments(self, url: str, prefix: str) -> list[str]:
        if urlsplit(url).scheme == "http+unix":
            return [f"--{prefix}socket", _socket_path(url)]
        server = Server.from_url(url)
        return [f"--{prefix}ip", server.ip, f"--{prefix}port", str(server.port)]

    # -- Routes ------------------------------------------------------------------------

    async def restore_routes(self) -> None:
        """Give a new proxy all routes: the Hub's, those of users and services, and ``extra_routes``."""
        with self._collecting() as changes:
            await super().restore_routes()
            for routespec, target in self.extra_routes.items():
                await self.add_route(routespec, target, {"extra": True})
        await self._change_routes(changes)

    async def check_routes(self, user_dict: Any, service_dict: Any, routes: Any = None) -> None:
        """Bring the proxy's routes in line with the Hub's, with one request for all that is wrong."""
        with self._collecting() as changes:
            await super().check_routes(user_dict, service_dict, routes)
        await self._change_routes(changes)

    @contextlib.contextmanager
    def _collecting(self) -> Iterator[Changes]:
        """Let :meth:`add_route` and :meth:`delete_route` only take notes.

        For this task, and those that it starts: others go on as usual.
        """
        changes: Changes = {}
        token = _collected.set(changes)
        try:
            yield changes
        finally:
            _collected.reset(token)

    async def _change_routes(self, changes: Changes) -> None:
        paths = list(changes)
        for start in range(0, len(paths), _ROUTES_PER_REQUEST):
            part = {path: changes[path] for path in paths[start : start + _ROUTES_PER_REQUEST]}
            await self.api_request("", method="PATCH", body=part)

    async def add_route(self, routespec: str, target: str, data: dict[str, Any] | None) -> None:
        """Add a route, or note it where many are collected."""
        changes = _collected.get()
        if changes is None:
            await super().add_route(routespec, target, data)
        else:
            path = unquote(self._routespec_to_chp_path(routespec))
            changes[path] = {**(data or {}), "target": target, "jupyterhub": True}

    async def delete_route(self, routespec: str) -> None:
        """Delete a route, or note it where many are collected."""
        changes = _collected.get()
        path = self._routespec_to_chp_path(routespec)
        if changes is not None:
            changes[unquote(path)] = None
            return
        try:
            await self.api_request(path, method="DELETE")
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
            data = json.loads((await self.api_request(path)).body)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if "jupyterhub" not in data:
            return None
        route: dict[str, Any] = self._reformat_routespec(self.validate_routespec(routespec), data)
        return route

    async def api_request(
        self, path: str, method: str = "GET", body: Any = None, client: object = None
    ) -> _Answer:
        """Ask the proxy's API; ``path`` is that of a route, percent-encoded.

        Tries again for 30 seconds while the proxy does not answer, or says that it can't do it
        now. Raises :class:`~chp.errors.ApiError` for an answer that is final, ``TimeoutError``
        if none came. ``client`` is there because JupyterHub 5 passes one.
        """
        url = url_path_join(self.api_url, "api/routes", path)
        content = json.dumps(body) if isinstance(body, dict) else body
        tls = self._api_tls() if url.startswith("https:") else None
        self.log.debug("Proxy: %s %s", method, url)

        async def attempt() -> _Answer | None:
            async with self.semaphore:
                try:
                    content_received = await fetch(
                        url, method=method, token=self.auth_token, body=content, tls=tls
                    )
                except ApiError as error:
                    if error.status < 500:
                        raise
                    self.log.warning("The proxy's API, %s %s: %s, trying again", method, path or "/", error)
                    return None
            return _Answer(content_received)

        failure = f"The proxy's API does not answer: {method} {path or '/'}"
        answer: _Answer = await exponential_backoff(attempt, failure, timeout=_API_PATIENCE)
        return answer

    def _api_tls(self) -> ssl.SSLContext | None:
        """With ``internal_ssl``, the Hub shows its certificate to the API."""
        if not self.app.internal_ssl:
            return None
        context: ssl.SSLContext = make_ssl_context(
            self.app.internal_ssl_key, self.app.internal_ssl_cert, cafile=self.app.internal_ssl_ca
        )
        return context

    # -- Files -------------------------------------------------------------------------

    def _private_directory(self) -> str:
        """Return a directory for sockets and settings that only this user can enter."""
        if not self._directory:
            self._directory = tempfile.mkdtemp(prefix="jupyterhub-proxy-")
        return self._directory

    def _private_api_url(self) -> str:
        return "http+unix://" + quote(os.path.join(self._private_directory(), "api.sock"), safe="")

    def _check_pid(self, pid: int) -> None:
        """Raise ``ProcessLookupError`` unless this is a proxy that runs. JupyterHub ends what is left."""
        if not is_proxy(pid):
            raise ProcessLookupError(pid)

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
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""


class _Answer:
    """An answer of the API, in the form of both of JupyterHub's clients, that of 5 and that of 6."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def json(self) -> Any:
        return json.loads(self.body)


def _socket_path(url: str) -> str:
    return unquote(urlsplit(url).netloc)
