"""chp/config/tls.py: handshakes in memory, and files that can't be used."""

import contextlib
import ssl
from pathlib import Path

import pytest

from chp.config.tls import Files, Policy, client_context, server_context
from chp.errors import ConfigError

DEFAULT = Policy()


def handshake(server, client, hostname="localhost"):
    """Run a handshake; returns the server's side. Raises ``ssl.SSLError`` if either side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=hostname),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(5):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    # With TLS 1.3 a client learns after its handshake that its certificate is refused.
    sides[1].write(b"x")
    assert sides[0].read(1) == b"x"
    return sides[1]


def server_files(pki, **changes):
    return Files("--ssl", **{"key": pki.key, "cert": pki.cert, **changes})


def client(pki, policy=DEFAULT, **files):
    return client_context(Files("--client-ssl", ca=pki.ca, **files), policy)


def test_no_certificate_no_tls():
    assert server_context(Files("--ssl"), Policy()) is None


@pytest.mark.parametrize("options", [{"request_cert": True}, {"reject_unauthorized": True}])
def test_asking_for_certificates_without_one_is_refused(options):
    with pytest.raises(ConfigError, match="--ssl-ca and the like need --ssl-key and --ssl-cert"):
        server_context(Files("--ssl"), Policy(), **options)


def test_authorities_without_a_certificate_are_refused(pki):
    with pytest.raises(ConfigError, match="--ssl-ca and the like need --ssl-key and --ssl-cert"):
        server_context(Files("--ssl", ca=pki.ca), Policy())


def test_handshake(pki):
    side = handshake(server_context(server_files(pki), Policy()), client(pki))
    assert side.version() == "TLSv1.3"
    assert side.selected_alpn_protocol() == "http/1.1"


def test_the_server_is_verified(pki):
    server = server_context(server_files(pki), Policy())
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client(pki), hostname="elsewhere")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(Files("--client-ssl", ca=pki.other_ca), Policy()))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client_context(Files("--client-ssl"), Policy()))
    insecure = client_context(Files("--client-ssl", ca=pki.other_ca), Policy(), insecure=True)
    assert handshake(server, insecure, hostname="elsewhere").version()


def test_bundle_of_authorities(pki):
    server = server_context(server_files(pki), Policy())
    assert handshake(server, client_context(Files("--client-ssl", ca=pki.ca_bundle), Policy())).version()


def test_clients_may_show_a_certificate(pki):
    server = server_context(server_files(pki, ca=pki.ca_bundle), Policy(), request_cert=True)
    assert handshake(server, client(pki)).getpeercert() is None
    # It has no Authority Key Identifier.
    shown = handshake(server, client(pki, key=pki.client_key, cert=pki.client_cert))
    assert shown.getpeercert()["subject"] == ((("commonName", "client"),),)


def test_clients_must_show_a_certificate(pki):
    server = server_context(
        server_files(pki, ca=pki.ca), Policy(), request_cert=True, reject_unauthorized=True
    )
    with pytest.raises(ssl.SSLError):
        handshake(server, client(pki))
    assert handshake(server, client(pki, key=pki.client_key, cert=pki.client_cert)).getpeercert()


def test_reject_alone_asks_for_nothing(pki):
    server = server_context(server_files(pki), Policy(), reject_unauthorized=True)
    assert handshake(server, client(pki)).version()


def test_a_certificate_of_another_authority_is_refused(pki):
    server = server_context(server_files(pki, ca=pki.other_ca), Policy(), request_cert=True)
    with pytest.raises(ssl.SSLError):
        handshake(server, client(pki, key=pki.client_key, cert=pki.client_cert))


@pytest.mark.parametrize(
    ("protocol", "version"),
    [
        ("", "TLSv1.3"),
        ("TLS", "TLSv1.3"),
        ("SSLv23", "TLSv1.3"),
        ("TLSv1_2", "TLSv1.2"),
        ("TLSv1_3", "TLSv1.3"),
    ],
)
def test_protocols(pki, protocol, version):
    server = server_context(server_files(pki), Policy(protocol=protocol))
    assert handshake(server, client(pki)).version() == version


def test_old_protocols_only_when_asked_for(pki):
    old = Policy(protocol="TLSv1_1")
    with pytest.raises(ssl.SSLError):
        handshake(server_context(server_files(pki), Policy()), client(pki, old))
    assert handshake(server_context(server_files(pki), old), client(pki, old)).version() == "TLSv1.1"


def test_ciphers(pki):
    policy = Policy(protocol="TLSv1_2", ciphers="ECDHE-ECDSA-CHACHA20-POLY1305")
    side = handshake(server_context(server_files(pki), policy), client(pki))
    assert side.cipher()[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
    default = server_context(server_files(pki), Policy()).get_ciphers()
    assert not [cipher["name"] for cipher in default if "CBC" in cipher["name"] or "RC4" in cipher["name"]]
    assert server_context(server_files(pki), Policy(allow_rc4=True))


def test_passphrase(pki):
    right = server_files(pki, key=pki.encrypted_key, passphrase="secret")
    assert handshake(server_context(right, Policy()), client(pki)).version()
    for passphrase, why in (("", "no passphrase is set"), ("wrong", "the passphrase is wrong")):
        files = server_files(pki, key=pki.encrypted_key, passphrase=passphrase)
        with pytest.raises(ConfigError, match=f"--ssl-key: can't use .*: .*{why}"):
            server_context(files, Policy())


def test_key_and_certificate_in_one_file(pki, tmp_path):
    both = tmp_path / "both.pem"
    both.write_text(Path(pki.key).read_text() + Path(pki.cert).read_text())
    assert handshake(server_context(Files("--ssl", cert=str(both)), Policy()), client(pki)).version()


def test_files_that_cannot_be_used(pki, tmp_path):
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"\xff")
    cases = [
        ({"key": "/nowhere"}, "--ssl-key: can't read /nowhere: No such file or directory"),
        ({"cert": "/nowhere"}, "--ssl-cert: can't read /nowhere: No such file or directory"),
        ({"cert": ""}, "--ssl-key is given, but no --ssl-cert"),
        ({"key": ""}, f"--ssl-cert: no private key (PEM) in {pki.cert}, and no --ssl-key is given"),
        ({"key": str(empty)}, f"--ssl-key: no private key (PEM) in {empty}"),
        ({"cert": str(empty)}, f"--ssl-cert: no certificate (PEM) in {empty}"),
        ({"cert": str(junk)}, f"--ssl-cert, --ssl-key: can't use {junk} and {pki.key}: "),
        ({"key": pki.client_key}, f"--ssl-key: {pki.client_key} is not the key of --ssl-cert {pki.cert}"),
        ({"ca": "/nowhere"}, "--ssl-ca: can't read /nowhere: No such file or directory"),
        ({"ca": str(tmp_path)}, f"--ssl-ca: can't read {tmp_path}: Is a directory"),
        ({"ca": str(empty)}, f"--ssl-ca: no usable certificate in {empty}: "),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError) as raised:
            server_context(server_files(pki, **changes), Policy(), request_cert=True)
        assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            Policy(protocol="SSLv3"),
            "--ssl-protocol: 'SSLv3' is unknown or unsafe; known are TLSv1, TLSv1_1, ",
        ),
        (Policy(ciphers="NONSENSE"), "--ssl-ciphers: OpenSSL knows no cipher of 'NONSENSE'"),
        (Policy(dhparam="/nowhere"), "--ssl-dhparam: can't read /nowhere: No such file or directory"),
        (Policy(dhparam=__file__), f"--ssl-dhparam: can't use {__file__}: "),
    ],
)
def test_policies_that_cannot_be_used(pki, policy, message):
    for make in (
        lambda: server_context(server_files(pki), policy),
        lambda: client_context(Files("--client-ssl"), policy),
    ):
        with pytest.raises(ConfigError) as raised:
            make()
        assert str(raised.value).startswith(message)
