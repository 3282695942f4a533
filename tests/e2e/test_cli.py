"""The installed command: how it starts, what it says, and how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.ports import free_port

from chp import __version__

REPOSITORY = Path(__file__).parent.parent.parent
COMMAND = str(Path(sys.executable).parent / "configurable-http-proxy")
SERVED = "Proxy API at "
TIMEOUT = 15  # seconds


@pytest.fixture
def environment():
    """No settings from outside; a token, because there is a warning without one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGPROXY_")}
    return {**clean, "CONFIGPROXY_AUTH_TOKEN": "s3cret"}


def run(argv, cwd, env, command=(COMMAND,)):
    return subprocess.run(
        [*command, *argv],
        check=False,
        cwd=cwd,
        env=env,
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


class Proxy:
    """A running proxy and its log."""

    def __init__(self, process):
        self.process = process
        self.log = ""

    def read_until(self, text):
        """Read the log up to the line with this text."""
        while text not in self.log:
            line = self.process.stderr.readline()
            assert line, f"the proxy ended without {text!r}:\n{self.log}"
            self.log += line
        return self.log

    def port(self, pattern):
        return int(re.search(pattern + r".*?:(\d+)", self.log)[1])

    def end(self, number=signal.SIGTERM):
        """Send a signal; returns the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        self.log += self.process.communicate(timeout=TIMEOUT)[1]
        return self.process.returncode


@pytest.fixture
def start(tmp_path, environment):
    """Start the command and wait until it listens."""
    with contextlib.ExitStack() as stack:

        def start(*argv, env=None, ready=SERVED, umask=-1):
            process = subprocess.Popen(
                [COMMAND, *argv],
                cwd=tmp_path,
                env={**environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                umask=umask,
            )
            stack.enter_context(process)
            # Only while it still runs: __exit__ of the process waits for it.
            stack.callback(process.kill)
            proxy = Proxy(process)
            proxy.read_until(ready)
            return proxy

        yield start


def get(url, token=None):
    """Return status and body."""
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"} if token else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


LOCAL = ("--ip", "127.0.0.1", "--port", "0", "--api-ip", "127.0.0.1")


def test_version_and_help(tmp_path, environment):
    for option in ("-V", "--version"):
        assert run([option], tmp_path, environment).stdout == f"{__version__}\n"
    module = run(["--help"], tmp_path, environment, [sys.executable, "-m", "chp"])
    assert module.returncode == 0
    assert "--api-ssl-reject-unauthorized" in module.stdout
    everything = run(["--help-all"], tmp_path, environment).stdout
    assert "--ConfigurableProxy.proxy_request=" in everything
    assert "s3cret" not in everything


def test_help_for_a_reader_who_has_seen_enough(tmp_path, environment):
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [COMMAND, "--help"],
        cwd=tmp_path,
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prot", "1"], "unknown option --prot (did you mean --port?)"),
        (["x"], "unexpected argument 'x': there are only options"),
        (["--port"], "option --port needs a value"),
        (["--port", "abc"], "option --port: 'abc' is not a whole number"),
        (["--port", "70000"], "port: 70000 is not a whole number of at least 0 and at most 65535"),
        (["--max-head-size", "1"], "max_head_size: 1 is not a whole number of at least 1024"),
        (["--upstream", "x"], "upstream: 'x' is not one of auto, direct, curl"),
        (["--protocol-rewrite", "ftp"], "protocol_rewrite: 'ftp' is not one of http, https"),
        (["-f", "type.py"], "timeout: '5s' is not a whole number of at least 0"),
        (["-f", "secret.py"], "auth_token: the value has to be a unicode string, and is of the type list"),
        (["--log-level", "loud"], "log_level: 'loud' is not one of"),
        (["--custom-header", "x"], "A colon was expected in custom header: x"),
        (
            ["--error-target", "http://x", "--error-path", "/"],
            "Cannot specify both error-target and error-path",
        ),
        (["--redirect-port", "0"], "HTTPS redirection specified but certificates not provided."),
        (["--ssl-key", "/no", "--ssl-cert", "/no"], "--ssl-cert: can't read /no: No such file or directory"),
        (["--client-ssl-ca", "/no"], "--client-ssl-ca: can't read /no: No such file or directory"),
        (["--socket", "s", "--port", "1"], "--socket can't be used with --port. Pick one."),
        ([*LOCAL, "--storage-backend", "no.such.Store"], "Storage backend 'no.such.Store': "),
        ([*LOCAL, "--pid-file", "/no/pid"], "--pid-file: can't write /no/pid: No such file or directory"),
        (["-f", "missing.py"], "no configuration file missing.py"),
        (["-f", "bad.py"], "configuration file bad.py, line 1: ZeroDivisionError: division by zero"),
    ],
)
def test_errors_are_one_line_and_status_1(tmp_path, environment, argv, message):
    (tmp_path / "bad.py").write_text("1 / 0\n")
    (tmp_path / "type.py").write_text("c.ConfigurableProxy.timeout = '5s'\n")
    (tmp_path / "secret.py").write_text("c.ConfigurableProxy.auth_token = ['s3cret']\n")
    result = run(argv, tmp_path, environment)
    assert result.returncode == 1
    log_free = [line for line in result.stderr.splitlines() if "[ConfigProxy] info" not in line]
    assert len(log_free) == 1
    assert log_free[0].startswith(f"chp: {message}")
    assert "s3cret" not in result.stderr
    assert result.stdout == ""


def test_port_in_use(tmp_path, environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run([*LOCAL, "--api-port", str(port)], tmp_path, environment)
    assert result.returncode == 1
    assert result.stderr == f"chp: --api-port: can't listen on 127.0.0.1:{port}: address already in use\n"


def test_no_token_is_a_warning(tmp_path, environment):
    environment.pop("CONFIGPROXY_AUTH_TOKEN")
    result = run([*LOCAL, "--access-log", "/no/log"], tmp_path, environment)
    warning, error = result.stderr.splitlines()
    assert warning.endswith("warn: REST API is not authenticated. Set CONFIGPROXY_AUTH_TOKEN to a secret.")
    assert error == "chp: --access-log: can't write to /no/log: No such file or directory"


def test_both_kinds_of_token_are_an_error(tmp_path, environment):
    result = run([], tmp_path, {**environment, "CONFIGPROXY_AUTH_TOKEN_FILE": "x"})
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "s3cret" not in result.stderr


def test_generated_configuration(tmp_path, environment):
    assert run(["--generate-config"], tmp_path, environment).returncode == 0
    generated = (tmp_path / "chp_config.py").read_text()
    assert generated == (REPOSITORY / "chp_config.py").read_text()
    assert "s3cret" not in generated

    again = run(["--generate-config"], tmp_path, environment)
    assert (again.returncode, again.stderr) == (1, "chp: chp_config.py exists (-y replaces it)\n")
    assert run(["--generate-config", "-y"], tmp_path, environment).returncode == 0
    assert run(["--show-config"], tmp_path, environment).returncode == 0


def test_log_lines_and_pid_file(start, tmp_path):
    proxy = start(
        *LOCAL, "--default-target", "http://127.0.0.1:9", "--metrics-port=0", "--metrics-ip=127.0.0.1",
        "--pid-file", "pid", "--log-level", "DEBUG", ready="Writing pid",
    )  # fmt: skip
    assert re.search(
        r"^[\d-]{10}T[\d:]{8}\.\d{3}Z \[ConfigProxy\] info: Route added / -> http://127.0.0.1:9$",
        proxy.log,
        re.M,
    )
    assert re.search(rf"info: chp {__version__} \(plain Python\) runs on (uvloop|asyncio)$", proxy.log, re.M)
    assert re.search(r"info: Proxying http://127.0.0.1:\d+ to http://127.0.0.1:9$", proxy.log, re.M)
    assert re.search(r"info: Proxy API at http://127.0.0.1:\d+/api/routes$", proxy.log, re.M)
    metrics = re.search(r"info: Serve metrics at (http://127.0.0.1:\d+/metrics)$", proxy.log, re.M)[1]
    status, routes = get(f"http://127.0.0.1:{proxy.port('Proxy API')}/api/routes", "s3cret")
    assert (status, list(json.loads(routes))) == (200, ["/"])
    assert get(metrics)[0] == 200
    assert (tmp_path / "pid").read_text() == str(proxy.process.pid)
    assert proxy.end() == 0
    assert "Traceback" not in proxy.log
    assert "s3cret" not in proxy.log
    assert "\x1b" not in proxy.log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(start, number, loop):
    proxy = start(*LOCAL, "--event-loop", loop)
    port = proxy.port("Proxying")
    # A connection without a request does not hold it up.
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT):
        assert proxy.end(number) == 0
    assert "Traceback" not in proxy.log
    assert "did not close" not in proxy.log


def test_second_signal_ends_a_drain(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"http://127.0.0.1:{silent.getsockname()[1]}"
        proxy = start(
            "--ip", "127.0.0.1", "--port", "0", "--api-socket", "api", "--default-target", target,
            "--drain-timeout", "60000", "--pid-file", "pid", ready="Writing pid",
        )  # fmt: skip
        with socket.create_connection(("127.0.0.1", proxy.port("Proxying")), timeout=TIMEOUT) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            silent.settimeout(TIMEOUT)
            backend, _ = silent.accept()
            with backend:
                backend.settimeout(TIMEOUT)
                backend.recv(1000)  # the request is under way
                proxy.process.terminate()
                proxy.read_until("Terminated")
                assert proxy.process.poll() is None
                proxy.process.terminate()
                assert proxy.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_request_under_way_is_finished(start):
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"http://127.0.0.1:{server.getsockname()[1]}"
        proxy = start(*LOCAL, "--default-target", target)
        with socket.create_connection(("127.0.0.1", proxy.port("Proxying")), timeout=TIMEOUT) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            server.settimeout(TIMEOUT)
            backend, _ = server.accept()
            with backend:
                backend.settimeout(TIMEOUT)
                backend.recv(1000)
                proxy.process.terminate()
                proxy.read_until("Terminated")
                backend.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
                received = b""
                while data := client.recv(1000):
                    received += data
        assert received.endswith(b"\r\n\r\ndone")
        assert proxy.wait() == 0


def test_unix_sockets(start, tmp_path):
    (tmp_path / "proxy").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "proxy"))
    proxy = start("--socket", "proxy", "--api-socket", "api", umask=0o007)
    for name, path in (("proxy", "/_chp_healthz"), ("api", "/api/")):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT)
            client.connect(str(tmp_path / name))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: token s3cret\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o770
    assert proxy.end() == 0
    assert list(tmp_path.iterdir()) == []


def test_command_line_of_jupyterhub(start):
    """As jupyterhub.proxy.ConfigurableHTTPProxy starts it, with an empty --ip."""
    port, api_port = free_port(), free_port()
    proxy = start(
        "--ip", "", "--port", str(port), "--api-ip", "127.0.0.1", "--api-port", str(api_port),
        "--error-target", "http://127.0.0.1:9/hub/error", "--log-level", "info", "--host-routing",
    )  # fmt: skip
    assert get(f"http://127.0.0.1:{port}/_chp_healthz") == (200, b'{"status":"OK"}')
    assert get(f"http://127.0.0.1:{api_port}/api/routes", "s3cret") == (200, b"{}")
    assert get(f"http://127.0.0.1:{api_port}/api/routes", "other")[0] == 403
    assert get(f"http://127.0.0.1:{port}/")[0] == 404
    assert proxy.end() == 0


def test_command_line_of_jupyterhub_with_internal_ssl(start, pki):
    files = [
        option
        for side in ("api", "client")
        for option in (
            f"--{side}-ssl-key", pki.key, f"--{side}-ssl-cert", pki.cert, f"--{side}-ssl-ca", pki.ca_bundle,
            f"--{side}-ssl-request-cert", f"--{side}-ssl-reject-unauthorized",
        )
    ]  # fmt: skip
    proxy = start(*LOCAL, "--ssl-key", pki.key, "--ssl-cert", pki.cert, *files)
    assert re.search(r"Proxying https://127.0.0.1:\d+ to", proxy.log)
    assert re.search(r"Proxy API at https://127.0.0.1:\d+/api/routes", proxy.log)
    assert proxy.end() == 0


def test_command_line_of_the_kubernetes_chart(start, pki):
    """With ports of our own for the chart's 8443 and 8000, and without its fixed API port."""
    port, api_port, redirect_port = free_port(), free_port(), free_port()
    proxy = start(
        "--ip=", "--api-ip=", f"--api-port={api_port}",
        "--default-target=http://hub:8081", "--error-target=http://hub:8081/hub/error",
        f"--port={port}", f"--redirect-port={redirect_port}", "--redirect-to=443",
        f"--ssl-key={pki.key}", f"--ssl-cert={pki.cert}", ready="Added HTTP to HTTPS redirection",
    )  # fmt: skip
    assert f"Added HTTP to HTTPS redirection from {redirect_port} to 443" in proxy.log
    with socket.create_connection(("127.0.0.1", redirect_port), timeout=TIMEOUT) as client:
        client.sendall(b"GET /x?y HTTP/1.1\r\nHost: a.b:80\r\n\r\n")
        head = client.recv(1000)
    assert head.startswith(b"HTTP/1.1 301")
    assert b"\r\nLocation: https://a.b/x?y\r\n" in head
    assert proxy.end() == 0


def test_log_as_json(start):
    proxy = start(*LOCAL, "--log-json", "--log-level", "debug")
    assert proxy.end() == 0
    lines = [json.loads(line) for line in proxy.log.splitlines()]
    assert [line["level"] for line in lines if line["message"].startswith("Proxy API at http://")] == ["info"]
    assert lines[-1].keys() == {"time", "level", "logger", "message"}
