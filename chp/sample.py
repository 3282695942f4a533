"""``make run``: the proxy with a small backend behind it, to look at and to try things out.

The backend has a page with an event stream and a WebSocket echo. Its route is
added through the REST API, as JupyterHub would.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from asyncio.subprocess import Process

from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

_START_TIMEOUT = 10.0  # seconds

_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>chp: a sample backend</title>
    <style>body { font: 16px sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }</style>
  </head>
  <body>
    <h1>The proxy works</h1>
    <p>This page comes from a sample backend, through the route <code>/sample</code>.</p>
    <h2>Server-Sent Events</h2>
    <p id="event">waiting</p>
    <h2>WebSocket echo</h2>
    <form><input id="text" value="hello"><button>Send</button></form>
    <pre id="echo"></pre>
    <h2>What the backend receives</h2>
    <p><a href="/sample/request">/sample/request</a> shows the request as the backend sees it.</p>
    <script>
      const show = (id, text) => document.getElementById(id).textContent = text;
      new EventSource("/sample/events").onmessage = event => show("event", "event " + event.data);
      const scheme = location.protocol === "https:" ? "wss:" : "ws:";
      const socket = new WebSocket(scheme + "//" + location.host + "/sample/echo");
      socket.onmessage = event => show("echo", event.data);
      socket.onclose = () => show("echo", "closed");
      document.forms[0].onsubmit = event => {
        event.preventDefault();
        socket.send(document.getElementById("text").value);
      };
    </script>
  </body>
</html>
"""


class PageHandler(RequestHandler):
    def get(self) -> None:
        self.finish(_PAGE)


class EventsHandler(RequestHandler):
    """An event each second, until the client goes."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        number = 0
        with contextlib.suppress(StreamClosedError):
            while True:
                number += 1
                self.write(f"data: {number}\n\n")
                await self.flush()
                await asyncio.sleep(1)


class EchoHandler(WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


class RequestShowingHandler(RequestHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(f"{self.request.method} {self.request.uri} {self.request.version}\n")
        self.finish("".join(f"{name}: {value}\n" for name, value in self.request.headers.get_all()))


def make_backend() -> Application:
    """Return the sample backend; it looks at the end of the path only, so that any prefix will do."""
    return Application(
        [
            (r".*/events", EventsHandler),
            (r".*/echo", EchoHandler),
            (r".*/request", RequestShowingHandler),
            (r".*", PageHandler),
        ]
    )


async def run(port: int) -> int:
    """Run backend and proxy until SIGINT or SIGTERM; returns the exit status."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)

    backend = HTTPServer(make_backend())
    sockets = bind_sockets(0, "127.0.0.1")
    backend.add_sockets(sockets)
    target = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"

    token = secrets.token_hex(16)
    command = ["-m", "chp", "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--api-ip", "127.0.0.1", "--api-port", str(port + 1)]
    environment = {**os.environ, "CONFIGPROXY_AUTH_TOKEN": token}
    environment.pop("CONFIGPROXY_AUTH_TOKEN_FILE", None)
    proxy = await asyncio.create_subprocess_exec(sys.executable, *command, env=environment)
    ended = asyncio.create_task(proxy.wait())
    try:
        routes = f"http://127.0.0.1:{port + 1}/api/routes"
        if await _add_route(proxy, f"{routes}/sample", target, token):
            print(_instructions(f"http://127.0.0.1:{port}/sample", routes, target, token), flush=True)
            stopped = asyncio.create_task(stopping.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
    finally:
        if proxy.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                proxy.terminate()
        status = await ended
        backend.stop()
        await backend.close_all_connections()
    return status


async def _add_route(proxy: Process, url: str, target: str, token: str) -> bool:
    """Add the route as soon as the proxy's API answers. False if the proxy ends before that."""
    request = HTTPRequest(
        url,
        method="POST",
        body=json.dumps({"target": target}),
        headers={"Authorization": f"token {token}"},
    )
    loop = asyncio.get_running_loop()
    gives_up = loop.time() + _START_TIMEOUT
    while proxy.returncode is None and loop.time() < gives_up:
        try:
            await AsyncHTTPClient().fetch(request)
        except (OSError, HTTPError):
            await asyncio.sleep(0.1)
        else:
            return True
    return False


def _instructions(page: str, routes: str, target: str, token: str) -> str:
    curl = f"curl -H 'Authorization: token {token}'"
    return f"""
Open {page} in a browser. Ctrl-C ends everything.

List the routes, add one, and delete it:

  {curl} {routes}
  {curl} -d '{{"target": "{target}"}}' {routes}/more
  {curl} -X DELETE {routes}/more
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="chp.sample", description="The proxy with a sample backend.")
    parser.add_argument("--port", type=int, default=8000, help="the proxy's port; the API has the next one")
    sys.exit(asyncio.run(run(parser.parse_args().port)))


if __name__ == "__main__":
    main()
