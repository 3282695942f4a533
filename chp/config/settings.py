"""The settings that the data plane reads: frozen, and built once from the traits."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from chp.http1.fields import Field
from chp.http1.trust import TrustedProxies

KIB = 1024


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """How TLS is spoken with https targets, for a library that takes no ``ssl.SSLContext``."""

    key: str = ""  # files
    cert: str = ""
    passphrase: str = ""
    ca_file: str = ""
    ca_path: str = ""
    insecure: bool = False
    min_version: str = "TLSv1_2"  # names of ssl.TLSVersion
    max_version: str = ""
    ciphers: str = "DEFAULT"


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What the proxy's connections and exchanges need to know. Times are in seconds."""

    # The outgoing request.
    x_forward: bool = True
    trusted_proxies: TrustedProxies | None = None  # None: what every client says of itself passes
    prepend_path: bool = True
    include_prefix: bool = True
    change_origin: bool = False
    custom_fields: tuple[Field, ...] = ()
    removed_from_requests: tuple[bytes, ...] = ()  # names of fields
    host_routing: bool = False
    request_id_name: bytes = b""  # of the field with the request's id; empty: there is none

    # The response.
    response_fields: tuple[Field, ...] = ()
    removed_from_responses: tuple[bytes, ...] = ()

    # Location of redirects.
    auto_rewrite: bool = False
    protocol_rewrite: str = ""

    # Every connection begins with a PROXY header.
    proxy_protocol: bool = False

    # Timeouts; None: no limit.
    client_timeout: float | None = None
    upstream_timeout: float | None = None
    keep_alive_timeout: float = 5.0
    head_timeout: float = 60.0
    connect_timeout: float = 10.0
    tls_handshake_timeout: float = 30.0
    linger_timeout: float = 5.0

    # Limits.
    max_head_size: int = 64 * KIB  # bytes of a request's or response's head
    max_request_line: int = 16 * KIB  # bytes of a request's first line
    max_field_count: int = 256  # field lines of a request's head
    write_buffer_high: int = 64 * KIB  # bytes waiting for a slow peer before its source pauses
    pool_idle_timeout: float = 60.0  # an idle upstream connection is closed after this
    pool_max_idle: int = 64  # idle upstream connections for each origin
    max_connections: int = 0  # of clients, tunnels included; 0: no limit
    max_connections_per_address: int = 0  # the same of one client's address
    max_connections_per_target: int = 0  # exchanges and tunnels at a time for each origin; 0: no limit

    # TLS of https targets.
    client_tls: ssl.SSLContext | None = None
    client_tls_files: ClientTLS = ClientTLS()

    # Which implementation carries requests: "auto", "direct" or "curl".
    upstream: str = "auto"
