"""The options of the application: sources, their order, and values that are refused."""

import json
import logging

import pytest
from traitlets import Integer
from traitlets.config import Config

from chp.app import ConfigurableProxy
from chp.config import build
from chp.config.options import Options
from chp.errors import ConfigError


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    """No configuration file and no token from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONFIGPROXY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("CONFIGPROXY_AUTH_TOKEN_FILE", raising=False)
    return tmp_path


def make(*argv):
    proxy = ConfigurableProxy()
    proxy.initialize(argv)
    return proxy


def test_defaults():
    proxy = make()
    assert (proxy.ip, proxy.port, proxy.api_ip, proxy.api_port) == ("", 8000, "localhost", 8001)
    assert proxy.metrics_port is None
    assert proxy.log_level == logging.INFO
    settings = build.proxy_settings(proxy)
    assert (settings.client_timeout, settings.upstream_timeout) == (None, None)
    assert settings.keep_alive_timeout == 5.0


def test_api_port_follows_port():
    assert make("--port", "9000").api_port == 9001
    assert make("--port", "0").api_port == 0
    assert make("--port", "9000", "--api-port", "7").api_port == 7


def test_file_in_the_working_directory(own_directory):
    (own_directory / "chp_config.py").write_text("c.ConfigurableProxy.port = 1234\n")
    assert make().port == 1234


def test_named_file_instead_of_that_in_the_working_directory(own_directory):
    (own_directory / "chp_config.py").write_text("c.ConfigurableProxy.port = 1234\n")
    (own_directory / "other.py").write_text("c.ConfigurableProxy.api_port = 77\n")
    proxy = make("--config", "other.py")
    assert (proxy.port, proxy.api_port) == (8000, 77)


def test_json_file(own_directory):
    (own_directory / "a.json").write_text(json.dumps({"ConfigurableProxy": {"port": 5}}))
    assert make("-f", "a.json").port == 5


def test_command_line_wins(own_directory):
    (own_directory / "chp_config.py").write_text(
        "c.ConfigurableProxy.port = 1\nc.ConfigurableProxy.custom_header = ['a: b']\n"
        "c.Application.log_level = 'ERROR'\n"
    )
    proxy = make("--port", "2", "--log-level", "Warn")
    assert proxy.port == 2
    assert proxy.custom_header == ["a: b"]
    assert proxy.log_level == logging.WARNING


def test_a_function_in_a_file(own_directory):
    (own_directory / "chp_config.py").write_text(
        "def change(head): return 1\nc.ConfigurableProxy.proxy_request = change\n"
    )
    assert make().proxy_request(None) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", "configuration file bad.py, line 1: SyntaxError: "),
        ("\n1 / 0\n", "configuration file bad.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "configuration file bad.py, line 2: SystemExit: 3"),
        ("raise SystemExit", "configuration file bad.py, line 1: SystemExit"),
        ("\nraise KeyboardInterrupt", "configuration file bad.py, line 2: KeyboardInterrupt"),
        ("raise GeneratorExit('x')", "configuration file bad.py, line 1: GeneratorExit: x"),
        ("\nload_subconfig('other.py')", "configuration file {}/other.py, line 3: NameError: "),
        ("load_subconfig('syntax.py')", "configuration file {}/syntax.py, line 1: SyntaxError: "),
        (
            "c.ConfigurableProxy.prot = 1",
            "configuration file bad.py: unknown option ConfigurableProxy.prot (did you mean port?)",
        ),
        (
            "c.ConfigurableProx.port = 1",
            "configuration file bad.py: unknown class ConfigurableProx (did you mean ConfigurableProxy?)",
        ),
        ("c.Application.prot = 1", "configuration file bad.py: unknown option Application.prot"),
    ],
)
def test_broken_files(own_directory, text, message):
    (own_directory / "bad.py").write_text(text)
    (own_directory / "other.py").write_text("\n\nnowhere\n")
    (own_directory / "syntax.py").write_text("x = (\n")
    with pytest.raises(ConfigError) as raised:
        make("-f", "bad.py")
    assert str(raised.value).startswith(message.format(own_directory))


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("number", ["10**400", "10**5000"])
@pytest.mark.parametrize(
    "name", [name for name, trait in Options.class_traits(config=True).items() if isinstance(trait, Integer)]
)
def test_numbers_that_nothing_can_hold(own_directory, name, number, sign):
    (own_directory / "bad.py").write_text(f"c.ConfigurableProxy.{name} = {sign}{number}")
    with pytest.raises(ConfigError) as raised:
        make("-f", "bad.py")
    text = str(raised.value)
    assert text.startswith(f"{name}: ")
    assert " is not a whole number of at least " in text
    assert len(text) < 200


def test_missing_file():
    with pytest.raises(ConfigError, match=r"no configuration file nowhere\.py"):
        make("-f", "nowhere.py")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "70000"], "port"),
        (["--port", "-1"], "port"),
        (["--timeout", "-1"], "timeout: -1 is not a whole number of at least 0"),
        (
            ["--timeout", str(10**13)],
            "timeout: 10000000000000 is not a whole number of at least 0 and",
        ),
        (
            ["--timeout", "9" * 400],
            "99999999999999999999...99999999999999999999 (400 characters) is",
        ),
        (["--timeout", "9" * 5000], "option --timeout: '9999999999999999999...9999999999999999999' (5002 "),
        (["--max-connections", "9" * 20], "max_connections: 99999999999999999999 is not a whole number of"),
        (["--connect-timeout", "0"], "connect_timeout"),
        (["--log-level", "loud"], "log_level: 'loud' is not one of debug, info, warn, error"),
        (["--event-loop", "fast"], "event_loop: 'fast' is not one of auto, uvloop, asyncio"),
        (["--protocol-rewrite", "ftp"], "protocol_rewrite"),
        (["--default-target", "localhost:80"], "default_target: "),
        (["--error-target", "ftp://x"], "error_target: "),
        (["--custom-header", "nothing"], "A colon was expected in custom header: nothing"),
        (["--custom-header", ":x"], "A colon was expected in custom header: :x"),
        (["--custom-header", "a b: x"], "Invalid name of a custom header: 'a b'"),
        (["--custom-header", "a: x\ny: z"], "Invalid character in the value of the custom header a"),
        (["--custom-response-header", "x"], "A colon was expected in custom response header: x"),
        (["--custom-header", "a: \udcff"], "Invalid character in the value of the custom header a"),
        (["--custom-response-header", "x: \0"], "Invalid character in the value of the custom response"),
        (["--remove-response-header", "Server:"], "Invalid name of a removed header: 'Server:'"),
        (["--remove-request-header", ""], "Invalid name of a removed header: ''"),
        (["--remove-request-header", "host"], "The removed header Host is one that every request needs"),
        (["--trusted-proxies", "10.0.0.1/8"], "trusted_proxies: 10.0.0.1/8 has host bits set; a network"),
        (["--trusted-proxies", "10.0.0.1,me"], "trusted_proxies: 'me' does not appear to be"),
        (["--trusted-proxies="], "trusted_proxies: '' does not appear to be"),
    ],
)
def test_refused_values(argv, message):
    with pytest.raises(ConfigError) as raised:
        make(*argv)
    assert message in str(raised.value)


@pytest.mark.parametrize("level", ["debug", "INFO", "Warn", "error", "warning", "10"])
def test_log_levels(level):
    assert make("--log-level", level).log_level in (10, 20, 30, 40)


async def test_contradictions(pki):
    cases = {
        (
            "--error-target",
            "http://x",
            "--error-path",
            "/x",
        ): "Cannot specify both error-target and error-path",
        ("--redirect-port", "0"): "HTTPS redirection specified but certificates not provided",
        ("--socket", "/x", "--port", "1"): "--socket can't be used with --port",
        ("--socket", "/x", "--ip", ""): "--socket can't be used with --ip",
        ("--api-socket", "/x", "--api-port", "1"): "--api-socket can't be used with --api-port",
        ("--metrics-socket", "/x", "--metrics-ip", "x"): "--metrics-socket can't be used with --metrics-ip",
        (
            "--redirect-port",
            "0",
            "--ssl-cert",
            pki.cert,
            "--socket",
            "x",
        ): "--redirect-port needs --redirect-to",
    }
    for argv, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            await make(*argv).start_servers()


def test_settings():
    proxy = make(
        "--timeout", "1500", "--proxy-timeout", "2500", "--keep-alive-timeout", "0", "--no-x-forward"
    )
    proxy.custom_header = ["X-A: 1", "x-a:  2 "]
    settings = build.proxy_settings(proxy)
    assert (settings.client_timeout, settings.upstream_timeout) == (1.5, 2.5)
    assert settings.keep_alive_timeout == 5.0
    assert not settings.x_forward
    assert settings.custom_fields == ((b"x-a", b"2"),)


def test_trusted_proxies():
    assert build.proxy_settings(make()).trusted_proxies is None
    proxy = make("--trusted-proxies", "10.0.0.0/8, ::1", "--trusted-proxies=192.0.2.1")
    trusted = build.proxy_settings(proxy).trusted_proxies
    peers = (b"10.1.1.1", b"::1", b"192.0.2.1", b"192.0.2.2")
    assert [trusted.trusts(peer) for peer in peers] == [True, True, True, False]


def test_token_from_the_environment(monkeypatch, own_directory):
    assert make().auth_token == ""
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "s3cret")
    assert make().auth_token == "s3cret"
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN_FILE", "token")
    with pytest.raises(ConfigError, match="both set"):
        _ = make().auth_token
    monkeypatch.delenv("CONFIGPROXY_AUTH_TOKEN")
    with pytest.raises(ConfigError, match="CONFIGPROXY_AUTH_TOKEN_FILE: can't read token: No such file"):
        _ = make().auth_token
    (own_directory / "token").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        _ = make().auth_token
    (own_directory / "token").write_text("from-file\n")
    assert make().auth_token == "from-file"


def test_secrets_are_never_shown(own_directory, capfd):
    (own_directory / "chp_config.py").write_text(
        "c.ConfigurableProxy.auth_token = 's3cret'\n"
        "c.ConfigurableProxy.custom_header = ['Authorization: s3cret']\n"
    )
    proxy = make("--debug")
    assert proxy.auth_token == "s3cret"
    proxy.update_config(Config({"ConfigurableProxy": {"port": 5}}))
    assert "s3cret" not in str(capfd.readouterr())

    (own_directory / "chp_config.py").write_text("c.ConfigurableProxy.auth_token = 's3cret'\n")
    for option in ("--show-config", "--show-config-json"):
        make(option, "--port=5").start()
        shown = capfd.readouterr().out
        assert "port" in shown
        assert "s3cret" not in shown


def test_error_pages_come_with_the_package(own_directory):
    directory = build.error_pages(make())
    for name, heading in (
        ("404", "404: Not Found"),
        ("503", "503: Proxy Target Missing"),
        ("error", "Proxy Error"),
    ):
        with open(f"{directory}/{name}.html") as page:
            assert f"<h1>{heading}</h1>" in page.read()
    assert build.error_pages(make("--error-path", "/elsewhere")) == "/elsewhere"
