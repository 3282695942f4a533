"""chp/config/reload.py: what a new configuration may change while the proxy runs."""

import pytest
from traitlets.config import Config

from chp.app import ConfigurableProxy
from chp.config.options import Options
from chp.config.reload import merge, read
from chp.errors import ConfigError


def options(**values):
    return Options(**values)


def test_all_options_are_live_but_these():
    """A new option is decided on here, or where it stands."""
    addresses = {f"{name}{what}" for name in ("", "api_", "metrics_") for what in ("ip", "port", "socket")}
    addresses |= {"proxy_protocol", "redirect_port", "redirect_to", "reuse_port"}
    routes = {"auth_token", "api_max_body_size", "default_target", "host_routing", "wait_for_route"}
    routes |= {f"storage_{what}" for what in ("at_start", "backend", "patience", "url")}
    process = {
        "access_log",
        "access_log_format",
        "event_loop",
        "max_connections_per_target",
        "pid_file",
        "upstream",
    }
    live = set(Options.class_trait_names(config=True, live=True))
    assert set(Options.class_trait_names(config=True)) - live == addresses | routes | process


def test_read_takes_all_sections_and_leaves_traitlets_own_options():
    config = Config()
    config.ConfigurableProxy.timeout = 7
    config.Application.log_level = "ERROR"
    config.Application.log_datefmt = "%H"
    config.Other.port = 5
    config.ConfigurableProxy.custom_header.append("A: b")
    wanted = read(config, ConfigurableProxy)
    assert (wanted.timeout, wanted.log_level, wanted.port) == (7, 40, 8000)
    assert wanted.custom_header == ["A: b"]


def test_the_section_of_the_class_wins_over_that_of_its_base():
    config = Config()
    config.ConfigurableProxy.log_level = "debug"
    config.Application.log_level = "error"
    assert read(config, ConfigurableProxy).log_level == 10


def test_read_refuses_what_a_start_refuses():
    config = Config()
    config.ConfigurableProxy.custom_header = ["no colon"]
    with pytest.raises(ConfigError, match="A colon was expected"):
        read(config, ConfigurableProxy)


def test_merge_takes_what_is_live_and_names_the_rest():
    running = options(port=1, timeout=1, error_path="/old", auth_token="secret")
    wanted = options(port=2, timeout=2, auth_token="other", x_forward=False, error_path="/old")
    merged, changed, fixed = merge(running, wanted)
    assert changed == ["timeout", "x_forward"]
    # The API's port follows the proxy's, which is not to change.
    assert fixed == ["api_port", "auth_token", "port"]
    assert (merged.port, merged.api_port, merged.timeout, merged.x_forward) == (1, 2, 2, False)
    assert merged.auth_token == "secret"


@pytest.mark.parametrize(("before", "after"), [("", "cert"), ("cert", "")])
@pytest.mark.parametrize("prefix", ["ssl_", "api_ssl_"])
def test_tls_is_neither_switched_on_nor_off(prefix, before, after):
    cert, ca = f"{prefix}cert", f"{prefix}ca"
    merged, changed, fixed = merge(
        options(**{cert: before}), options(**{cert: after, ca: "ca", "timeout": 1})
    )
    assert (changed, fixed) == (["timeout"], [ca, cert])
    assert getattr(merged, cert) == before


def test_another_certificate_is_taken():
    merged, changed, fixed = merge(options(ssl_cert="a", ssl_key="k"), options(ssl_cert="b", ssl_key="l"))
    assert (changed, fixed) == (["ssl_cert", "ssl_key"], [])
    assert (merged.ssl_cert, merged.ssl_key) == ("b", "l")
