"""What is replaced while the proxy runs: options on request, certificates whenever their files change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tornado.httpserver import HTTPServer

from chp.config import build
from chp.config.certificate import Stamp, stamp, valid_until
from chp.config.files import read_text
from chp.config.options import Options
from chp.config.reload import merge
from chp.config.settings import ProxySettings
from chp.errors import ChpError, one_line
from chp.handlers.errors import ErrorPages
from chp.handlers.proxy import ProxyHandler
from chp.runtime import Runtime
from chp.servers.proxy import ProxyServer
from chp.upstream.base import Upstream

# Seconds between two looks at the certificates' files. A change must look the same twice before
# it is believed: key and certificate are not written in one moment.
WATCH_INTERVAL = 5.0


def make_error_pages(options: Options, runtime: Runtime, upstream: Upstream) -> ErrorPages:
    if not build.has_error_pages(options):
        runtime.log.warning("--error-path: no directory %s: error pages are plain text", options.error_path)
    return ErrorPages(
        runtime, upstream, error_path=build.error_pages(options), error_target=options.error_target
    )


@dataclass(frozen=True)
class LiveParts:
    """The parts of a running proxy that take something new; connections that are open keep what they have."""

    runtime: Runtime
    handler: ProxyHandler
    upstream: Upstream
    proxy: ProxyServer
    api: HTTPServer

    def use_settings(self, settings: ProxySettings) -> None:
        self.upstream.use(settings)
        self.handler.use(settings)
        self.proxy.use(settings)


class Reloader:
    """Reads options and certificates again. What can't be used is an error in the log, no more."""

    def __init__(self, options: Options, parts: LiveParts) -> None:
        """``options`` are those that the parts were made with."""
        self._options, _, _ = merge(options, options)  # a copy
        self._parts = parts
        self._log = parts.runtime.log
        self._metrics = parts.runtime.metrics
        self._loaded = _stamps(self._options)
        self._seen = self._loaded
        self._note_expiry()
        self._watch = parts.runtime.loop.create_task(self._watch_files())

    async def close(self) -> None:
        self._watch.cancel()
        await asyncio.wait([self._watch])

    def reload(self, read: Callable[[], Options]) -> tuple[Options, list[str]] | None:
        """Go on with the options that ``read`` returns, and with what stands in their files now.

        Returns the options that are in use from now on, and the names of those that have changed;
        None if they can't be used.
        """
        parts = self._parts
        try:
            options, changed, fixed = merge(self._options, read())
            build.check_combinations(options, ())
            loaded = _stamps(options)
            settings = build.proxy_settings(options)
            proxy_tls, api_tls = build.proxy_tls(options), build.api_tls(options)
            error_pages = make_error_pages(options, parts.runtime, parts.upstream)
        except Exception as error:  # whatever it is, the proxy runs and goes on
            self._metrics.config_reloads["failed"] += 1
            self._log.error("Configuration not reloaded, all is as it was: %s", _complaint(error))
            return None
        parts.use_settings(settings)
        parts.proxy.use_tls(proxy_tls)
        parts.api.ssl_options = api_tls
        parts.handler.error_pages = error_pages
        parts.handler.proxy_request = options.proxy_request
        self._options = options
        self._loaded = loaded
        self._note_expiry()
        self._metrics.config_reloads["ok"] += 1
        self._log.info("Configuration reloaded; changed: %s", ", ".join(changed) or "nothing")
        if fixed:
            self._log.warning("These can't change while the proxy runs, and did not: %s", ", ".join(fixed))
        return options, changed

    # -- files of certificates ---------------------------------------------

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            if not build.tls_files(self._options):
                continue
            # In a thread: a file system may take its time.
            now = await asyncio.to_thread(_stamps, self._options)
            for side, its_stamp in now.items():
                if its_stamp != self._loaded.get(side) and its_stamp == self._seen.get(side):
                    self._loaded[side] = its_stamp  # also where it can't be used: one error is enough
                    self._reload_certificate(side)
            self._seen = now

    def _reload_certificate(self, side: str) -> None:
        parts, options = self._parts, self._options
        try:
            if side == "proxy":
                parts.proxy.use_tls(build.proxy_tls(options))
            elif side == "api":
                parts.api.ssl_options = build.api_tls(options)
            else:
                parts.use_settings(build.proxy_settings(options))
        except ChpError as error:
            self._metrics.certificate_reloads["failed"] += 1
            self._log.error("Certificate (%s) not reloaded, the old one stays: %s", side, _complaint(error))
        else:
            self._metrics.certificate_reloads["ok"] += 1
            self._log.info("Certificate (%s) reloaded: its files have changed", side)
            self._note_expiry()

    def _note_expiry(self) -> None:
        for server, (path, *_) in build.tls_files(self._options).items():
            if server != "client":
                try:
                    end = valid_until(read_text("--ssl-cert", path))
                except (ChpError, ValueError):  # the last known time is better than none
                    continue
                self._metrics.certificate_expiry[server] = int(end.timestamp())


def _stamps(options: Options) -> dict[str, Stamp]:
    return {side: stamp(files) for side, files in build.tls_files(options).items()}


def _complaint(error: Exception) -> str:
    kind = "" if isinstance(error, ChpError) else f"{type(error).__name__}: "
    return kind + one_line(error)
