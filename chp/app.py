"""The application: reads its options, puts the rooms together, starts and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from traitlets import TraitError, default, observe
from traitlets.config import Application, Config
from traitlets.utils.bunch import Bunch

import chp
from chp import descriptors
from chp import log as logs
from chp.config import build, cli, file
from chp.config.listen import Address, Endpoint, Listener
from chp.config.options import GROUPS, Options
from chp.config.reload import read as read_options
from chp.drain import stop_servers
from chp.errors import ChpError, ConfigError, StorageError, one_line
from chp.handlers.access import AccessLog
from chp.handlers.access_lines import FORMATS
from chp.handlers.api import make_api_application
from chp.handlers.health import Health
from chp.handlers.metrics import make_metrics_application
from chp.handlers.proxy import ProxyHandler
from chp.handlers.redirect import make_redirect_application
from chp.logfile import LogFile
from chp.metrics import Metrics
from chp.notify import notify
from chp.reload import LiveParts, Reloader, make_error_pages
from chp.routing.storage import load_store
from chp.routing.table import RouteTable
from chp.runtime import Runtime
from chp.servers import connection
from chp.servers.accept import PatientServer
from chp.servers.proxy import ProxyServer
from chp.upstream.choice import make_upstream


def is_compiled() -> bool:
    """Tell whether this is the build whose data plane is compiled (see setup.py)."""
    return not connection.__file__.endswith(".py")


class ConfigurableProxy(Options, Application):  # type: ignore[misc]  # log_level takes names in any case
    """A configurable reverse proxy for JupyterHub.

    As a command: :func:`main`. Inside another program with a running event loop::

        proxy = ConfigurableProxy(port=0, auth_token="secret")
        await proxy.start_servers()
        ...  # it listens on proxy.proxy_address and proxy.api_address
        await proxy.stop()
    """

    name = "chp"
    description = "A configurable reverse proxy for JupyterHub."
    version = chp.__version__
    # chp.config.cli reads the command line; traitlets' own parser has nothing to know.
    flags: dict[str, Any] = {}
    aliases: dict[str, Any] = {}

    # While the servers run:
    table: RouteTable
    metrics: Metrics

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._listeners: dict[str, Listener] = {}  # by the name of the endpoint
        self._servers: list[HTTPServer] = []
        self._closing = contextlib.AsyncExitStack()
        self._access_log: AccessLog | None = None
        self._line: cli.CommandLine | None = None
        self._reloader: Reloader | None = None
        self._tell: Callable[[str], None] = lambda status: None  # for whoever started this process

    @default("log_format")
    def _default_log_format(self) -> str:
        return logs.FORMAT

    @default("log_datefmt")
    def _default_log_datefmt(self) -> str:
        return logs.DATE_FORMAT

    @property
    def _log_formatter_cls(self) -> type[logging.Formatter]:  # type: ignore[override]
        # traitlets only uses its name.
        return logs.JSONFormatter if self.log_json else logs.Formatter

    @observe("log_json")
    def _log_json_changed(self, change: Bunch) -> None:
        self._configure_logging()

    @observe("config")
    def _config_changed(self, change: Bunch) -> None:
        # traitlets' Application also logs the whole configuration here, with every secret in it.
        super(Application, self)._config_changed(change)

    def print_version(self) -> None:
        """Print the version, and whether it is the compiled build."""
        print(self.version + (" (compiled)" if is_compiled() else ""))

    # -- Options -----------------------------------------------------------------------

    def initialize(self, argv: Sequence[str] | None = None) -> None:
        """Read the command line (by default the process's) and the configuration file.

        Raises :class:`~chp.errors.ConfigError` or ``traitlets.TraitError`` with one clear line,
        and ``SystemExit`` when only a help text or the like was asked for.
        """
        line = cli.parse(sys.argv[1:] if argv is None else argv, type(self))
        if line.help:
            self.print_help(classes=line.help == "help-all")
            sys.stdout.flush()
            self.exit(0)
        if line.version:
            self.print_version()
            self.exit(0)
        if line.generate_config:
            self._write_config_file(line.config_file or file.DEFAULT_NAME, replace_it=line.answer_yes)
            self.exit(0)
        self._line = line
        config = self._read_config(line)
        read_options(config, type(self))  # it says in one line what is wrong with a value
        # Kept out of the configuration, so that nothing that shows it can show the token or a password.
        for name in ("auth_token", "storage_url"):
            secret = config[type(self).__name__].pop(name, None)
            if secret is not None:
                setattr(self, name, secret)
        self.update_config(config)

    def _read_config(self, line: cli.CommandLine) -> Config:
        # The file that was read at first must not be missing later.
        config = self._load_file(next(iter(self._loaded_config_files), line.config_file))
        self.cli_config = Config({type(self).__name__: line.values})
        config.merge(self.cli_config)
        return config

    def _load_file(self, path: str) -> Config:
        if not path and not os.path.exists(file.DEFAULT_NAME):
            return Config()
        path = path or file.DEFAULT_NAME
        config = file.load(path)
        file.check_names(config, type(self), path)
        self._loaded_config_files = [path]
        return config

    def _write_config_file(self, path: str, *, replace_it: bool) -> None:
        if os.path.exists(path) and not replace_it and not _confirmed(f"Replace {path}? [y/N] "):
            raise ConfigError(f"{path} exists (-y replaces it)")
        try:
            Path(path).write_text(self.generate_config_file(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"can't write {path}: {error.strerror}") from None
        print(f"Wrote the default configuration to {path}")

    def generate_config_file(self, classes: object = None) -> str:
        """Return a configuration file with every option, its help and its default."""
        return "\n".join(file.default_lines(GROUPS, type(self).__name__)) + "\n"

    def emit_description(self) -> Iterator[str]:  # type: ignore[override]
        yield cli.USAGE

    def emit_options_help(self) -> Iterator[str]:  # type: ignore[override]
        yield from cli.help_lines(GROUPS)
        yield ""

    # -- Servers -----------------------------------------------------------------------

    @property
    def proxy_address(self) -> Address:
        """Where the proxy listens: ``(host, port)``, or the path of a unix socket."""
        return self._listeners[""].address

    @property
    def api_address(self) -> Address:
        """Where the REST API listens."""
        return self._listeners["api-"].address

    @property
    def metrics_address(self) -> Address:
        """Where the metrics server listens. ``KeyError`` if there is none."""
        return self._listeners["metrics-"].address

    @property
    def redirect_address(self) -> Address:
        """Where the redirect server listens. ``KeyError`` if there is none."""
        return self._listeners["redirect-"].address

    async def start_servers(self) -> None:
        """Start everything, on the running event loop; requests are served from then on.

        Raises a :class:`~chp.errors.ChpError`, and leaves nothing behind, if an option can't be
        used or an address is taken. :meth:`stop` ends what this began.
        """
        build.check_combinations(self, self.config[type(self).__name__])
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._closing = stack.pop_all()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        logs.set_logger_level(self.log)
        settings = build.proxy_settings(self)
        proxy_tls, api_tls = build.proxy_tls(self), build.api_tls(self)
        if not self.auth_token:
            self.log.warning("REST API is not authenticated. Set CONFIGPROXY_AUTH_TOKEN to a secret.")
        has_store = bool(self.storage_url) or self.storage_backend not in ("", "memory")
        if self.reuse_port and not has_store:
            self.log.warning("--reuse-port without a store: a route is known to the process that got it only")

        # Addresses first: most of what can go wrong goes wrong here.
        self._listeners, self._servers = {}, []
        for endpoint in build.endpoints(self):
            self._listeners[endpoint.name] = listener = self._listen(endpoint)
            stack.callback(listener.close)

        self.metrics = metrics = Metrics()
        runtime = Runtime(asyncio.get_running_loop(), metrics, self.log)
        stack.callback(runtime.close)
        self._access_log = self._open_access_log(runtime.loop, stack)
        upstream = make_upstream(runtime, settings)
        stack.push_async_callback(upstream.close)
        self.table = table = RouteTable(
            load_store(self.storage_backend, self._storage_config(), url=self.storage_url),
            metrics,
            self.log,
            host_routing=self.host_routing,
            on_retired=lambda target: upstream.close_idle(target.origin),
            default_target=self.default_target,
            patience=self.storage_patience / 1000,
        )
        stack.push_async_callback(table.close)
        # Connections wait in the backlog meanwhile: nobody gets a 404 because of an early request.
        if has_store:
            self._tell("Reading the route store")
        await table.load(self.storage_at_start, self._tell_of_waiting)

        health = Health()
        error_pages = make_error_pages(self, runtime, upstream)
        handler = ProxyHandler(
            runtime, settings, table, upstream, error_pages, health, self.proxy_request, self._access_log
        )
        proxy_server = ProxyServer(handler, runtime, settings, proxy_tls)
        api = make_api_application(
            table, metrics, self.log, auth_token=self.auth_token, max_body_size=self.api_max_body_size
        )
        api_server = PatientServer(api, runtime, ssl_options=api_tls)
        reloader = Reloader(self, LiveParts(runtime, handler, upstream, proxy_server, api_server))
        stack.push_async_callback(reloader.close)

        stack.push_async_callback(self._close_servers, health, metrics)
        if self.wait_for_route and table.get(self.wait_for_route) is None:
            waiting = asyncio.create_task(self._serve_when_routed(proxy_server, proxy_tls))
            stack.callback(waiting.cancel)
        else:
            self._serve_proxy(proxy_server, proxy_tls)
        api_url = self._serve("api-", api_server, api_tls)
        self.log.info("Proxy API at %s/api/routes", api_url)

        if "metrics-" in self._listeners:
            page = make_metrics_application(metrics, routes=lambda: len(table.routes()))
            metrics_url = self._serve("metrics-", PatientServer(page, runtime))
            self.log.info("Serve metrics at %s/metrics", metrics_url)

        if "redirect-" in self._listeners:
            to_port = self.redirect_to or int(self.proxy_address[1])
            redirects = PatientServer(
                make_redirect_application(to_port, health),
                runtime,
                idle_connection_timeout=self.head_timeout / 1000,
            )
            self._serve("redirect-", redirects)
            from_port = self.redirect_address[1]
            self.log.info("Added HTTP to HTTPS redirection from %s to %s", from_port, to_port)
        self._reloader = reloader

    def _open_access_log(
        self, loop: asyncio.AbstractEventLoop, stack: contextlib.AsyncExitStack
    ) -> AccessLog | None:
        if not self.access_log:
            return None
        try:
            lines = LogFile(self.access_log, loop, self.log)
        except ConfigError as error:
            raise ConfigError(f"--access-log: {error}") from None
        stack.push_async_callback(lines.close)
        return AccessLog(lines, FORMATS[self.access_log_format])

    def _serve_proxy(self, server: ProxyServer, tls: ssl.SSLContext | None) -> None:
        url = self._serve("", server, tls)
        self.log.info("Proxying %s to %s", url, self.default_target or "(no default)")

    async def _serve_when_routed(self, server: ProxyServer, tls: ssl.SSLContext | None) -> None:
        self.log.info("Waiting for the route %s", self.wait_for_route)
        await self.table.until_there(self.wait_for_route)
        self._serve_proxy(server, tls)

    def _tell_of_waiting(self, error: StorageError) -> None:
        self._tell(f"Waiting until the route store can be read (--storage-at-start): {one_line(error)}")

    def _storage_config(self) -> Mapping[str, Any]:
        """Return what the configuration says about the store: ``c.ClassName.option = value``."""
        section: Mapping[str, Any] = self.config.get(self.storage_backend.rpartition(".")[2], {})
        return section

    def _listen(self, endpoint: Endpoint) -> Listener:
        if endpoint.ip == "*":
            self.log.warning(
                "Interpreting ip='*' as all-interfaces."
                " Preferred usage is 0.0.0.0 for all IPv4 or '' for all-interfaces."
            )
            endpoint = replace(endpoint, ip="")
        return endpoint.listen()

    def _serve(self, name: str, server: HTTPServer, tls: ssl.SSLContext | None = None) -> str:
        """Begin to accept on this endpoint; returns its URL for the log."""
        listener = self._listeners[name]
        listener.open()
        server.add_sockets(listener.sockets)
        self._servers.append(server)
        return listener.url("https" if tls else "http")

    def reopen_access_log(self) -> None:
        """Write on in a new file of the same name: the old one was moved away. No error if there is none."""
        if self._access_log is not None:
            self._access_log.reopen()

    def reload(self) -> None:
        """Read the configuration file and all certificates again, and go on with what is new.

        Without :meth:`initialize`, what counts are the options of this object as they are now. What
        can't be used is an error in the log, and everything stays as it was. Nothing is done where no
        servers run. The access log is opened again in any case.
        """
        if self._reloader is None:
            return
        self.reopen_access_log()

        def read() -> Options:
            return self if self._line is None else read_options(self._read_config(self._line), type(self))

        reloaded = self._reloader.reload(read)
        if reloaded is not None:
            options, changed = reloaded
            for name in changed:
                setattr(self, name, getattr(options, name))
            logs.set_logger_level(self.log)

    async def stop(self) -> None:
        """Stop listening, close every connection, and release everything. No error if nothing runs."""
        self._reloader = None
        await self._closing.pop_all().aclose()

    async def _close_servers(self, health: Health, metrics: Metrics) -> None:
        health.stopping = True
        if self.drain_delay and self._servers:  # not where the start has failed
            self.log.info("The health check says 503; stopping in %g s", self.drain_delay / 1000)
            await asyncio.sleep(self.drain_delay / 1000)
        await stop_servers(
            self._servers,
            metrics,
            self.log,
            timeout=self.drain_timeout / 1000,
            changing=lambda: self.table.link.changing,
        )

    # -- Process -----------------------------------------------------------------------

    def start(self) -> None:
        """Run until SIGINT or SIGTERM; a second signal ends the process at once.

        Raises a :class:`~chp.errors.ChpError` if the servers can't be started.
        """
        logs.adopt_library_loggers(self.log)
        descriptors.raise_limit(self.log)
        loop = _new_event_loop(self.event_loop)
        try:
            loop.run_until_complete(self._run(loop))
        finally:
            loop.close()

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        stopping = asyncio.Event()
        for number, message in ((signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Terminated")):
            loop.add_signal_handler(number, functools.partial(self._on_signal, stopping, message))
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._tell = lambda status: notify(STATUS=status)
        # It may wait for the route store for long.
        starting = asyncio.create_task(self.start_servers())
        stopped = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                # What is there now stays. A collection that need not look at it takes 14 ms less.
                gc.collect()
                gc.freeze()
                kind = "compiled" if is_compiled() else "plain Python"
                name = type(loop).__module__.partition(".")[0]
                self.log.info("chp %s (%s) runs on %s", self.version, kind, name)
                self._write_pid_file()
                notify(READY="1", STATUS="Proxying")
                await stopped
        finally:
            notify(STOPPING="1")
            for task in (starting, stopped):
                task.cancel()
            await asyncio.wait((starting, stopped))
            self._remove_pid_file()
            await self.stop()

    def _on_signal(self, stopping: asyncio.Event, message: str) -> None:
        self.log.warning(message)
        if stopping.is_set():
            self._remove_pid_file()
            for listener in self._listeners.values():
                listener.remove_file()
            os._exit(0)
        stopping.set()

    def _on_hangup(self) -> None:
        if self._reloader is None:
            self.log.warning("Not reloaded: the proxy is starting or stopping")
            return
        notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            self.reload()
            logs.adopt_library_loggers(self.log)  # its handlers are new where its level is
        finally:
            notify(READY="1")

    def _write_pid_file(self) -> None:
        if self.pid_file:
            self.log.info("Writing pid %s to %s", os.getpid(), self.pid_file)
            try:
                Path(self.pid_file).write_text(str(os.getpid()))
            except OSError as error:
                raise ConfigError(f"--pid-file: can't write {self.pid_file}: {error.strerror}") from None

    def _remove_pid_file(self) -> None:
        # Unless another process has written its own number there since.
        with contextlib.suppress(OSError):
            if self.pid_file and Path(self.pid_file).read_text() == str(os.getpid()):
                os.unlink(self.pid_file)


def _new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    if name != "asyncio":
        try:
            import uvloop  # noqa: PLC0415 - optional
        except ImportError:
            if name == "uvloop":
                raise ConfigError("--event-loop: uvloop is not installed") from None
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def main(argv: Sequence[str] | None = None) -> None:
    """Run the proxy as a command: exit status 0, or 1 and one line on stderr."""
    proxy = ConfigurableProxy()
    try:
        try:
            proxy.initialize(argv)
        except BrokenPipeError:  # its reader has seen enough: ``chp --help | head``
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at exit
            sys.exit(1)
        proxy.start()
    except (ChpError, TraitError) as error:
        reason = one_line(error)
        notify(STATUS=reason)
        sys.exit(f"{proxy.name}: {reason}")
