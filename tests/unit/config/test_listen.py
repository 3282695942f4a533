"""chp/config/listen.py: addresses, sockets left behind, and errors in one line."""

import os
import socket
import stat

import pytest

from chp.config.listen import Endpoint, Listener
from chp.errors import ConfigError


@pytest.fixture
def listening():
    """Listen, and close at the end."""
    listeners = []

    def listen(*args, **kwargs):
        listeners.append(Endpoint("", *args, **kwargs).listen())
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.close()


def connect(address):
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        client.settimeout(5)
        client.connect(address)


def test_any_free_port(listening):
    listener = listening("127.0.0.1", 0)
    host, port = listener.address
    assert host == "127.0.0.1"
    assert port > 0
    assert listener.url("http") == f"http://127.0.0.1:{port}"
    connect(listener.address)


def test_several_processes_may_share_a_port(listening):
    one = listening("127.0.0.1", 0, reuse_port=True)
    port = one.address[1]
    two = listening("127.0.0.1", port, reuse_port=True)
    assert two.address[1] == port
    one.open()
    # Who is not ready yet gets no connections.
    for _ in range(50):
        connect(one.address)
        one.sockets[0].accept()[0].close()
    two.open()
    with pytest.raises(ConfigError, match="address already in use"):
        listening("127.0.0.1", port)


@pytest.mark.parametrize(("ip", "shown"), [("", "*"), ("::", "[::]")])
def test_all_interfaces_share_one_port(listening, ip, shown):
    listener = listening(ip, 0)
    port = listener.address[1]
    assert {sock.getsockname()[1] for sock in listener.sockets} == {port}
    assert listener.url("https") == f"https://{shown}:{port}"
    connect(("127.0.0.1", port))
    if socket.has_ipv6 and any(sock.family == socket.AF_INET6 for sock in listener.sockets):
        with socket.create_connection(("::1", port), timeout=5):
            pass


@pytest.mark.parametrize("reuse_port", [False, True])
def test_no_client_has_an_ipv4_address_in_ipv6_form(listening, reuse_port):
    """IPv4 comes to sockets of its own, and nobody has to look for it in those of IPv6."""
    sockets = listening("", 0, reuse_port=reuse_port).sockets
    of_ipv6 = [sock for sock in sockets if sock.family == socket.AF_INET6]
    assert len(of_ipv6) < len(sockets)
    assert all(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) for sock in of_ipv6)


def test_localhost(listening):
    listener = listening("localhost", 0)
    assert listener.address[0] == "127.0.0.1"
    assert listener.url("http").startswith("http://localhost:")


def test_ipv6_in_a_url():
    with socket.socket() as sock:  # whatever it listens on: a machine may have no IPv6
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert Listener([sock], ip="::1").url("http") == f"http://[::1]:{port}"


def test_port_in_use(listening):
    port = listening("127.0.0.1", 0).address[1]
    with pytest.raises(ConfigError) as raised:
        Endpoint("api-", "127.0.0.1", port).listen()
    assert str(raised.value) == f"--api-port: can't listen on 127.0.0.1:{port}: address already in use"


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (
            Endpoint("", "192.0.2.1", 0),
            "--port: can't listen on 192.0.2.1:0: cannot assign requested address",
        ),
        (Endpoint("api-", "name.invalid", 1), "--api-port: can't listen on name.invalid:1: "),
        (
            Endpoint("api-", "localhost", 65536),
            "--api-port: can't listen on localhost:65536: there is no port above 65535",
        ),
        (
            Endpoint("", socket="/nowhere/s"),
            "--socket: can't listen on /nowhere/s: no such file or directory",
        ),
        (Endpoint("", socket="/" + "x" * 200), "--socket: can't listen on /xxx"),
        (
            Endpoint("metrics-", socket="/etc/passwd"),
            "--metrics-socket: can't listen on /etc/passwd: the file exists",
        ),
    ],
)
def test_refused(endpoint, message):
    with pytest.raises(ConfigError) as raised:
        endpoint.listen()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_unix_socket(listening, tmp_path):
    path = str(tmp_path / "s")
    before = os.umask(0o007)
    try:
        listener = listening(socket=path)
    finally:
        os.umask(before)
    assert listener.address == path
    assert listener.url("http") == "http+unix://" + path.replace("/", "%2F")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o770
    connect(path)
    listener.close()
    assert not os.path.exists(path)


def test_unix_socket_in_use(listening, tmp_path):
    path = str(tmp_path / "s")
    listening(socket=path)
    with pytest.raises(ConfigError, match="address already in use"):
        listening(socket=path)
    connect(path)


def test_stale_unix_socket_is_replaced(listening, tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    connect(listening(socket=path).address)


def test_no_file_of_another_process_is_removed(listening, tmp_path):
    path = str(tmp_path / "s")
    old = listening(socket=path)
    os.rename(path, path + ".old")
    new = listening(socket=path)
    old.close()
    connect(new.address)
