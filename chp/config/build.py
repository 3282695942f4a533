"""From the options to what the servers and the data plane are made with."""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection
from pathlib import Path

from chp import descriptors
from chp.config import tls
from chp.config.listen import Endpoint
from chp.config.options import Options
from chp.config.options.forwarding import split_header, trusted_proxies
from chp.config.options.limits import LimitOptions
from chp.config.settings import ProxySettings
from chp.errors import ConfigError
from chp.http1.fields import Field


def check_combinations(options: Options, given: Collection[str]) -> None:
    """Raise :class:`ConfigError` for options that contradict each other.

    ``given`` has the names of those that the operator has set.
    """
    for prefix in ("", "api_", "metrics_"):
        others = [name for name in (f"{prefix}port", f"{prefix}ip") if name in given]
        if getattr(options, f"{prefix}socket") and others:
            text = f"--{prefix}socket can't be used with --{others[0]}. Pick one."
            raise ConfigError(text.replace("_", "-"))
    if options.error_target and options.error_path:
        raise ConfigError("Cannot specify both error-target and error-path. Pick one.")
    if options.redirect_port is not None:
        if not options.ssl_key and not options.ssl_cert:
            raise ConfigError("HTTPS redirection specified but certificates not provided.")
        if options.socket and options.redirect_to is None:
            raise ConfigError("--redirect-port needs --redirect-to when the proxy listens on a socket")


def endpoints(options: Options) -> list[Endpoint]:
    """Return where each server is to listen. The proxy and the API are always there."""
    shared = options.reuse_port
    wanted = [
        Endpoint("", options.ip, options.port, options.socket, shared),
        Endpoint("api-", options.api_ip, options.api_port, options.api_socket, shared),
    ]
    if options.metrics_port is not None or options.metrics_socket:
        port = options.metrics_port or 0
        wanted.append(Endpoint("metrics-", options.metrics_ip, port, options.metrics_socket))
    if options.redirect_port is not None:
        wanted.append(Endpoint("redirect-", options.ip, options.redirect_port, "", shared))
    return wanted


def proxy_tls(options: Options) -> ssl.SSLContext | None:
    """Return what the proxy needs to speak HTTPS, if it does. Raises :class:`ConfigError`."""
    passphrase = os.environ.get("CONFIGPROXY_SSL_KEY_PASSPHRASE", "")
    return tls.server_context(
        tls.Files("--ssl", options.ssl_key, options.ssl_cert, options.ssl_ca, passphrase),
        _tls_policy(options),
        request_cert=options.ssl_request_cert,
        reject_unauthorized=options.ssl_reject_unauthorized,
    )


def api_tls(options: Options) -> ssl.SSLContext | None:
    """Return what the REST API needs to speak HTTPS, if it does. Raises :class:`ConfigError`."""
    passphrase = os.environ.get("CONFIGPROXY_API_SSL_KEY_PASSPHRASE", "")
    return tls.server_context(
        tls.Files("--api-ssl", options.api_ssl_key, options.api_ssl_cert, options.api_ssl_ca, passphrase),
        _tls_policy(options),
        request_cert=options.api_ssl_request_cert,
        reject_unauthorized=options.api_ssl_reject_unauthorized,
    )


def tls_files(options: Options) -> dict[str, list[str]]:
    """Return the files that belong to certificates, the certificate's own first: of ``"proxy"``, ``"api"``
    and ``"client"`` (for https targets), as far as they have any.
    """
    o = options
    sides = {
        "proxy": [o.ssl_cert, o.ssl_key, o.ssl_ca, o.ssl_dhparam],
        "api": [o.api_ssl_cert, o.api_ssl_key, o.api_ssl_ca, o.ssl_dhparam],
        "client": [o.client_ssl_cert, o.client_ssl_key, o.client_ssl_ca],
    }
    named = {side: [path for path in paths if path] for side, paths in sides.items()}
    if not o.ssl_cert:
        del named["proxy"]
    if not o.api_ssl_cert:
        del named["api"]
    return {side: paths for side, paths in named.items() if paths}


def proxy_settings(options: Options) -> ProxySettings:
    """Return what the data plane reads: seconds, bytes. Raises :class:`ConfigError`."""
    client_tls = (
        tls.Files(
            "--client-ssl",
            options.client_ssl_key,
            options.client_ssl_cert,
            options.client_ssl_ca,
            os.environ.get("CONFIGPROXY_CLIENT_SSL_KEY_PASSPHRASE", ""),
        ),
        _tls_policy(options),
    )
    keep_alive = options.keep_alive_timeout or LimitOptions.keep_alive_timeout.default_value
    return ProxySettings(
        x_forward=options.x_forward,
        trusted_proxies=trusted_proxies(options.trusted_proxies),
        prepend_path=options.prepend_path,
        include_prefix=options.include_prefix,
        change_origin=options.change_origin,
        custom_fields=_fields(options.custom_header),
        removed_from_requests=tuple(name.encode() for name in options.remove_request_header),
        host_routing=options.host_routing,
        request_id_name=options.request_id_header.encode(),
        response_fields=_fields(options.custom_response_header),
        removed_from_responses=tuple(name.encode() for name in options.remove_response_header),
        auto_rewrite=options.auto_rewrite,
        protocol_rewrite=options.protocol_rewrite,
        proxy_protocol=options.proxy_protocol,
        client_timeout=options.timeout / 1000 or None,
        upstream_timeout=options.proxy_timeout / 1000 or None,
        keep_alive_timeout=keep_alive / 1000,
        head_timeout=options.head_timeout / 1000,
        connect_timeout=options.connect_timeout / 1000,
        tls_handshake_timeout=options.tls_handshake_timeout / 1000,
        max_head_size=options.max_head_size,
        max_request_line=options.max_request_line,
        max_field_count=options.max_field_count,
        max_connections=options.max_connections or descriptors.connections(),
        max_connections_per_address=options.max_connections_per_address,
        max_connections_per_target=options.max_connections_per_target,
        write_buffer_high=options.write_buffer_high,
        pool_idle_timeout=options.pool_idle_timeout / 1000,
        pool_max_idle=options.pool_max_idle,
        client_tls=tls.client_context(*client_tls, insecure=options.insecure),
        client_tls_files=tls.client_files(*client_tls, insecure=options.insecure),
        upstream=options.upstream,
    )


def error_pages(options: Options) -> str:
    """Return the directory of the error pages: the operator's, or the one that comes with the package."""
    if options.error_path:
        return options.error_path
    # An installed package has share/ inside it; in a checkout (pip install -e) it is beside it.
    package = Path(__file__).parent.parent
    inside = package / "share" / "chp-errors"
    return str(inside if inside.is_dir() else package.parent / "share" / "chp-errors")


def has_error_pages(options: Options) -> bool:
    return os.path.isdir(error_pages(options))


def _fields(lines: list[str]) -> tuple[Field, ...]:
    """Return the fields that these lines set: of several with one name the last one."""
    fields = {name.lower(): (name.encode(), value.encode()) for name, value in map(split_header, lines)}
    return tuple(fields.values())


def _tls_policy(options: Options) -> tls.Policy:
    return tls.Policy(options.ssl_protocol, options.ssl_ciphers, options.ssl_allow_rc4, options.ssl_dhparam)
