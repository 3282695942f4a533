"""Which options a new configuration may change while the proxy runs."""

from __future__ import annotations

from traitlets import TraitError
from traitlets.config import Config, Configurable
from traitlets.config.loader import LazyConfigValue

from chp.config.options import Options
from chp.errors import ConfigError

# Everything else is part of what was built at the start: addresses, routes, event loop.
LIVE = frozenset(
    (
        # Error pages.
        "error_path",
        "error_target",
        # What changes in requests and responses.
        "auto_rewrite",
        "change_origin",
        "custom_header",
        "include_prefix",
        "prepend_path",
        "protocol_rewrite",
        "proxy_request",
        "x_forward",
        # TLS, as long as it is neither switched on nor off.
        "api_ssl_ca",
        "api_ssl_cert",
        "api_ssl_key",
        "api_ssl_reject_unauthorized",
        "api_ssl_request_cert",
        "client_ssl_ca",
        "client_ssl_cert",
        "client_ssl_key",
        "client_ssl_reject_unauthorized",
        "client_ssl_request_cert",
        "insecure",
        "ssl_allow_rc4",
        "ssl_ca",
        "ssl_cert",
        "ssl_ciphers",
        "ssl_dhparam",
        "ssl_key",
        "ssl_protocol",
        "ssl_reject_unauthorized",
        "ssl_request_cert",
        # Timeouts and limits.
        "connect_timeout",
        "drain_delay",
        "drain_timeout",
        "head_timeout",
        "keep_alive_timeout",
        "max_field_count",
        "max_head_size",
        "pool_idle_timeout",
        "pool_max_idle",
        "proxy_timeout",
        "timeout",
        "tls_handshake_timeout",
        "write_buffer_high",
        # The log.
        "log_json",
        "log_level",
    )
)


def read(config: Config, configurable: type[Configurable]) -> Options:
    """Return the options that a configuration asks for. Raises :class:`ConfigError`.

    No instance of the application itself: a second one would take the log over.
    """
    options = Options()
    for name in configurable.section_names():
        for trait, value in config.get(name, {}).items():
            if not options.has_trait(trait):
                continue  # one of traitlets' own
            if isinstance(value, LazyConfigValue):  # c.ConfigurableProxy.custom_header.append(...)
                value = value.get_value(getattr(options, trait))  # noqa: PLW2901
            try:
                setattr(options, trait, value)
            except TraitError as error:
                raise ConfigError(str(error)) from None
    return options


def merge(running: Options, wanted: Options) -> tuple[Options, list[str], list[str]]:
    """Return the options to go on with, the names of those that change, and of those that can't."""
    names = Options.class_trait_names(config=True)
    differing = [name for name in names if getattr(running, name) != getattr(wanted, name)]
    switched = _switched_tls(running, wanted)
    fixed = sorted(name for name in differing if name not in LIVE or name.startswith(switched))
    changed = sorted(set(differing) - set(fixed))
    values = {name: getattr(wanted if name in changed else running, name) for name in names}
    return Options(**values), changed, fixed


def _switched_tls(running: Options, wanted: Options) -> tuple[str, ...]:
    """Return the first part of the names of options that would begin or end TLS on a server that listens."""
    return tuple(
        prefix
        for prefix in ("ssl_", "api_ssl_")
        if _has_certificate(running, prefix) is not _has_certificate(wanted, prefix)
    )


def _has_certificate(options: Options, prefix: str) -> bool:
    return bool(getattr(options, f"{prefix}key") or getattr(options, f"{prefix}cert"))
