"""From the TLS options to ``ssl.SSLContext``: for the proxy, the REST API, and https targets."""

from __future__ import annotations

import ssl
import warnings
from dataclasses import dataclass

from chp.config.files import read_text
from chp.config.settings import ClientTLS
from chp.errors import ConfigError

# Forward secrecy and authenticated encryption only: Mozilla's "intermediate"
# list. The ciphers of TLS 1.3 are always allowed.
DEFAULT_CIPHERS = ":".join(
    f"{exchange}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for exchange in ("ECDHE-ECDSA", "ECDHE-RSA", "DHE-RSA")
)
# OpenSSL 3 speaks TLS 1.0 and 1.1 only at security level 0, and they have no AEAD ciphers.
_OLD_CIPHERS = "HIGH:!aNULL:!eNULL:!MD5:!PSK:!SRP:!CAMELLIA:@SECLEVEL=0"

_VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1_1": ssl.TLSVersion.TLSv1_1,
    "TLSv1_2": ssl.TLSVersion.TLSv1_2,
    "TLSv1_3": ssl.TLSVersion.TLSv1_3,
}
_ANY_VERSION = ("", "TLS", "SSLv23")


@dataclass(frozen=True)
class Policy:
    """How TLS is spoken, on every side."""

    protocol: str = ""
    ciphers: str = ""
    allow_rc4: bool = False
    dhparam: str = ""


@dataclass(frozen=True)
class Files:
    """Key, certificate and authorities of one side, and the option that each is from."""

    option: str  # the first part of the options' names: "--ssl", "--api-ssl" or "--client-ssl"
    key: str = ""
    cert: str = ""
    ca: str = ""
    passphrase: str = ""


def server_context(
    files: Files, policy: Policy, *, request_cert: bool = False, reject_unauthorized: bool = False
) -> ssl.SSLContext | None:
    """Return what a server needs to speak TLS; None if there is no certificate.

    Raises :class:`ConfigError` for files and names that can't be used.
    """
    if not files.key and not files.cert:
        if files.ca or request_cert or reject_unauthorized:
            raise ConfigError(
                f"{files.option}-ca and the like need {files.option}-key and {files.option}-cert"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _apply_policy(context, policy)
    _load_key_pair(context, files)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if request_cert:
        context.verify_mode = ssl.CERT_REQUIRED if reject_unauthorized else ssl.CERT_OPTIONAL
        _load_authorities(context, files, ssl.Purpose.CLIENT_AUTH)
    return context


def client_context(files: Files, policy: Policy, *, insecure: bool = False) -> ssl.SSLContext:
    """Return what is needed to speak TLS with https targets.

    Raises :class:`ConfigError` for files and names that can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _apply_policy(context, policy)
    if files.key or files.cert:
        _load_key_pair(context, files)
    context.options |= ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    _load_authorities(context, files, ssl.Purpose.SERVER_AUTH)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def client_files(files: Files, policy: Policy, *, insecure: bool = False) -> ClientTLS:
    """Return the same as :func:`client_context`, which has found no fault with it, for libcurl."""
    default = ssl.get_default_verify_paths()
    version = policy.protocol if policy.protocol in _VERSIONS else ""
    return ClientTLS(
        key=files.key,
        cert=files.cert,
        passphrase=files.passphrase,
        ca_file=files.ca or default.cafile or "",
        ca_path="" if files.ca else default.capath or "",
        insecure=insecure,
        min_version=version or "TLSv1_2",
        max_version=version,
        ciphers=_cipher_list(policy),
    )


def _cipher_list(policy: Policy) -> str:
    if policy.ciphers:
        return policy.ciphers
    ciphers = _OLD_CIPHERS if policy.protocol in ("TLSv1", "TLSv1_1") else DEFAULT_CIPHERS
    return ciphers + ":RC4" if policy.allow_rc4 else ciphers


def _apply_policy(context: ssl.SSLContext, policy: Policy) -> None:
    if policy.protocol not in _VERSIONS and policy.protocol not in _ANY_VERSION:
        known = ", ".join(_VERSIONS)
        raise ConfigError(f"--ssl-protocol: {policy.protocol!r} is unknown or unsafe; known are {known}")
    version = _VERSIONS.get(policy.protocol)
    with warnings.catch_warnings():
        # ssl warns about the old versions. The operator has asked for one.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = version or ssl.TLSVersion.TLSv1_2
        if version is not None:
            context.maximum_version = version
    try:
        context.set_ciphers(_cipher_list(policy))
    except ssl.SSLError:
        raise ConfigError(f"--ssl-ciphers: OpenSSL knows no cipher of {policy.ciphers!r}") from None
    if policy.dhparam:
        read_text("--ssl-dhparam", policy.dhparam)
        try:
            context.load_dh_params(policy.dhparam)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"--ssl-dhparam: can't use {policy.dhparam}: {_reason(error)}") from None


def _load_key_pair(context: ssl.SSLContext, files: Files) -> None:
    """Load key and certificate, and find out which of them is wrong if one is."""
    cert_option, key_option = f"{files.option}-cert", f"{files.option}-key"
    if not files.cert:
        raise ConfigError(f"{key_option} is given, but no {cert_option}")
    cert_text = read_text(cert_option, files.cert)
    key_text = read_text(key_option, files.key) if files.key else cert_text
    if not files.key:
        key_option = cert_option
    if "-----BEGIN CERTIFICATE-----" not in cert_text:
        raise ConfigError(f"{cert_option}: no certificate (PEM) in {files.cert}")
    key_file = files.key or files.cert
    if "PRIVATE KEY-----" not in key_text:
        hint = "" if files.key else f", and no {files.option}-key is given"
        raise ConfigError(f"{key_option}: no private key (PEM) in {key_file}{hint}")
    try:
        # Always a passphrase: without one, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(files.cert, key_file, files.passphrase or "-")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{key_option}: {key_file} is not the key of {cert_option} {files.cert}"
            raise ConfigError(text) from None
        if "ENCRYPTED" in key_text:
            why = (
                "the passphrase is wrong" if files.passphrase else "it is encrypted, and no passphrase is set"
            )
            raise ConfigError(f"{key_option}: can't use {key_file}: {why}") from None
        raise ConfigError(
            f"{cert_option}, {key_option}: can't use {files.cert} and {key_file}: {_reason(error)}"
        ) from None


def _load_authorities(context: ssl.SSLContext, files: Files, purpose: ssl.Purpose) -> None:
    # Python 3.13 refuses certificates without an Authority Key Identifier where
    # this is set, and JupyterHub's internal ones have none.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not files.ca:
        context.load_default_certs(purpose)
        return
    option = f"{files.option}-ca"
    read_text(option, files.ca)
    try:
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{option}: no usable certificate in {files.ca}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
    return str(reason).replace("_", " ").lower()
