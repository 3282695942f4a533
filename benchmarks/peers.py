"""The proxies: how each is started in front of the backend, with one core's worth of threads.

All do the same work: keep connections on both sides, pass upgrades on, add X-Forwarded fields, buffer
no upload on disk, write no access log.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import HOST

TOKEN = "benchmark"
MANY = 5000  # connections that a proxy must be able to have


@dataclass(frozen=True)
class Setup:
    """What a proxy is started with."""

    folder: Path  # its own, for configuration and logs
    certificate: Path
    key: Path
    port: int
    api_port: int
    backend_port: int
    tls: bool = False
    backend_tls: bool = False

    @property
    def backend(self) -> str:
        return f"{'https' if self.backend_tls else 'http'}://{HOST}:{self.backend_port}"

    def write(self, name: str, text: str) -> str:
        file = self.folder / name
        file.write_text(text)
        return str(file)

    def pem(self) -> str:
        return self.write("both.pem", self.certificate.read_text() + self.key.read_text())


@dataclass(frozen=True)
class Peer:
    """A proxy."""

    name: str
    title: str
    command: Callable[[Path, Setup], list[str]]  # the first argument: where peers are installed
    version: Callable[[Path], list[str]]  # a command that tells it
    curl: bool = False  # carries requests with libcurl, as far as it can
    tls: bool = True  # speaks it
    environment: Mapping[str, str] = field(default_factory=dict)

    def version_text(self, installed: Path) -> str:
        shown = subprocess.run(
            self.version(installed), capture_output=True, text=True, timeout=30, check=False
        )
        found = re.search(r"\d+\.\d+(?:\.\d+)*", shown.stdout + shown.stderr)
        return found[0] if found else ""


def _chp_options(setup: Setup) -> list[str]:
    """Return what all programs with the options of configurable-http-proxy are started with."""
    options = ["--ip", HOST, "--port", str(setup.port), "--api-ip", HOST, "--api-port", str(setup.api_port)]
    options += ["--default-target", setup.backend, "--log-level", "error"]
    if setup.tls:
        options += ["--ssl-key", str(setup.key), "--ssl-cert", str(setup.certificate)]
    if setup.backend_tls:
        options += ["--client-ssl-ca", str(setup.certificate)]
    return options


_PLAIN = [sys.executable, "-m", "chp"]
# What ``make compiled`` has built, with the packages of this environment.
_COMPILED = ["env", f"PYTHONPATH={sys.prefix}/compiled", f"{sys.prefix}/compiled/bin/chp"]


def _chp(*more: str, program: list[str] = _PLAIN) -> Callable[[Path, Setup], list[str]]:
    return lambda installed, setup: [*program, *more, *_chp_options(setup)]


def _node(installed: Path, setup: Setup) -> list[str]:
    return [*node_command(installed), *_chp_options(setup)]


def node_command(installed: Path) -> list[str]:
    return ["node", str(installed / "node/node_modules/configurable-http-proxy/bin/configurable-http-proxy")]


def _corridor(installed: Path, setup: Setup) -> list[str]:
    return [str(installed / "corridor/bin/configurable-http-proxy"), *_chp_options(setup)]


def _traefik(installed: Path, setup: Setup) -> list[str]:
    dynamic = f"""
[http.routers.all]
rule = "PathPrefix(`/`)"
service = "backend"
entryPoints = ["web"]
{"[http.routers.all.tls]" if setup.tls else ""}
[http.services.backend.loadBalancer]
serversTransport = "backend"
[[http.services.backend.loadBalancer.servers]]
url = "{setup.backend}"
[http.serversTransports.backend]
insecureSkipVerify = true
maxIdleConnsPerHost = {MANY}
[[tls.certificates]]
certFile = "{setup.certificate}"
keyFile = "{setup.key}"
"""
    static = f"""
[global]
checkNewVersion = false
sendAnonymousUsage = false
[log]
level = "ERROR"
[entryPoints.web]
address = "{HOST}:{setup.port}"
[providers.file]
filename = "{setup.write("routes.toml", dynamic)}"
watch = false
"""
    configuration = setup.write("traefik.toml", static)
    return [str(installed / "traefik/bin/traefik"), f"--configFile={configuration}"]


def _haproxy(installed: Path, setup: Setup) -> list[str]:
    bind = f"ssl crt {setup.pem()} alpn http/1.1" if setup.tls else ""
    server = "ssl verify none" if setup.backend_tls else ""
    configuration = f"""
global
    nbthread 1
    maxconn {MANY}
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    option http-keep-alive
    option http-no-delay
    http-reuse always
frontend web
    bind {HOST}:{setup.port} {bind}
    option forwardfor
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Forwarded-Proto {"https" if setup.tls else "http"}
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    default_backend all
backend all
    server one {HOST}:{setup.backend_port} {server}
"""
    return [_program("haproxy"), "-db", "-f", setup.write("haproxy.cfg", configuration)]


def _nginx(installed: Path, setup: Setup) -> list[str]:
    listen = f"{HOST}:{setup.port} {'ssl' if setup.tls else ''}"
    certificate = f"ssl_certificate {setup.certificate}; ssl_certificate_key {setup.key};"
    folders = "".join(
        f"{name}_temp_path {setup.folder / name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = f"""
daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile {2 * MANY};
pid {setup.folder / "nginx.pid"};
error_log stderr error;
events {{ worker_connections {MANY}; }}
http {{
    access_log off;
    {folders}
    keepalive_requests 1000000000;
    client_max_body_size 0;
    map $http_upgrade $connection_field {{ default upgrade; "" ""; }}
    upstream backend {{ server {HOST}:{setup.backend_port}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        {certificate if setup.tls else ""}
        location / {{
            proxy_pass {"https" if setup.backend_tls else "http"}://backend;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_read_timeout 1h;
            proxy_set_header Host $http_host;
            proxy_set_header Connection $connection_field;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
        }}
    }}
}}
"""
    return [_program("nginx"), "-e", "stderr", "-c", setup.write("nginx.conf", configuration)]


def _program(name: str) -> str:
    """Find a program of Debian's, which may be where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin") or name


def _own_version(installed: Path) -> list[str]:
    return [*_PLAIN, "--version"]


def _compiled_version(installed: Path) -> list[str]:
    return [*_COMPILED, "--version"]


PEERS = (
    Peer(
        "chp",
        "chp",
        _chp("--event-loop", "uvloop", "--upstream", "direct"),
        _own_version,
    ),
    Peer(
        "chp-compiled",
        "chp, compiled",
        _chp("--event-loop", "uvloop", "--upstream", "direct", program=_COMPILED),
        _compiled_version,
    ),
    Peer(
        "chp-asyncio",
        "chp, asyncio",
        _chp("--event-loop", "asyncio", "--upstream", "direct"),
        _own_version,
    ),
    Peer(
        "chp-asyncio-compiled",
        "chp, asyncio, compiled",
        _chp("--event-loop", "asyncio", "--upstream", "direct", program=_COMPILED),
        _compiled_version,
    ),
    Peer(
        "chp-curl",
        "chp, curl",
        _chp("--event-loop", "uvloop", "--upstream", "curl"),
        _own_version,
        curl=True,
    ),
    Peer(
        "node",
        "configurable-http-proxy (Node)",
        _node,
        lambda installed: [*node_command(installed), "--version"],
    ),
    Peer(
        "corridor",
        "configurable-http-proxy (Python)",
        _corridor,
        lambda installed: [str(installed / "corridor/bin/pip"), "show", "configurable-http-proxy"],
        tls=False,
    ),
    Peer(
        "traefik",
        "Traefik",
        _traefik,
        lambda installed: [str(installed / "traefik/bin/traefik"), "version"],
        environment={"GOMAXPROCS": "1"},
    ),
    Peer("haproxy", "HAProxy", _haproxy, lambda installed: [_program("haproxy"), "-v"]),
    Peer("nginx", "nginx", _nginx, lambda installed: [_program("nginx"), "-v"]),
)
