"""chp/config/cli.py: from a command line to the values of traits."""

import pytest

from chp.app import ConfigurableProxy
from chp.config import cli
from chp.config.options import GROUPS
from chp.errors import ConfigError

# Every option of configurable-http-proxy 5.3.
WITH_VALUE = """
    ip port socket ssl-key ssl-cert ssl-ca ssl-protocol ssl-ciphers ssl-dhparam api-ip api-port api-socket
    api-ssl-key api-ssl-cert api-ssl-ca client-ssl-key client-ssl-cert client-ssl-ca default-target
    error-target error-path redirect-port redirect-to pid-file protocol-rewrite custom-header metrics-ip
    metrics-port metrics-socket log-level timeout proxy-timeout keep-alive-timeout storage-backend
""".split()
SWITCHES = """
    ssl-request-cert ssl-reject-unauthorized ssl-allow-rc4 api-ssl-request-cert api-ssl-reject-unauthorized
    client-ssl-request-cert client-ssl-reject-unauthorized auto-rewrite change-origin insecure host-routing
""".split()
SWITCHES_OFF = ["no-x-forward", "no-prepend-path", "no-include-prefix"]


def parse(*argv):
    return cli.parse(argv, ConfigurableProxy)


def values(*argv):
    return parse(*argv).values


@pytest.mark.parametrize("option", WITH_VALUE)
def test_options_with_a_value(option):
    name = option.replace("-", "_")
    separate, joined = values(f"--{option}", "1"), values(f"--{option}=1")
    assert separate == joined
    assert list(separate) == [name]
    assert separate[name] in ("1", 1, ["1"])


@pytest.mark.parametrize("option", SWITCHES)
def test_switches(option):
    assert values(f"--{option}") == {option.replace("-", "_"): True}


@pytest.mark.parametrize("option", SWITCHES_OFF)
def test_switches_that_are_on(option):
    assert values(f"--{option}") == {option[3:].replace("-", "_"): False}


def test_empty_values_are_values():
    assert values("--ip=", "--api-ip", "") == {"ip": "", "api_ip": ""}


def test_values_stay_as_they_are():
    line = values("--error-target=http://a/?b=c", "--pid-file", "~/x", "--ssl-ciphers", "'A'", "--ip=None")
    assert line == {
        "error_target": "http://a/?b=c",
        "pid_file": "~/x",
        "ssl_ciphers": "'A'",
        "ip": "None",
    }


def test_the_last_one_wins_in_every_spelling():
    assert values("--port", "1", "--ConfigurableProxy.port=2", "--port=3") == {"port": 3}
    assert values("--port", "1", "--ConfigurableProxy.port", "2") == {"port": 2}
    assert values("--host-routing", "--no-host-routing") == {"host_routing": False}
    assert values("--debug", "--log-level", "error") == {"log_level": "error"}


def test_custom_header_is_repeatable():
    assert values("--custom-header", "a: b", "--custom-header=c:d") == {"custom_header": ["a: b", "c:d"]}
    assert values("--ConfigurableProxy.custom_header=['a: b']") == {"custom_header": ["a: b"]}


def test_the_options_of_traitlets():
    line = parse("-f", "x.py", "--generate-config", "-y", "--show-config", "--Application.log_level=DEBUG")
    assert (line.config_file, line.generate_config, line.answer_yes) == ("x.py", True, True)
    assert line.values == {"show_config": True, "log_level": "DEBUG"}
    assert parse("--config=y.py").config_file == "y.py"
    assert values("--ConfigurableProxy.x_forward=False") == {"x_forward": False}
    assert values("--ConfigurableProxy.metrics_port=None") == {"metrics_port": None}
    assert parse("-V").version
    assert parse("-h").help == parse("--help").help == "help"
    assert parse("--help-all").help == "help-all"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prot", "1"], "unknown option --prot (did you mean --port?)"),
        (["-p", "1"], "unknown option -p"),
        (["--auth-token", "x"], "unknown option --auth-token"),
        (["--x=secret"], "unknown option --x"),
        (["8000"], "unexpected argument '8000': there are only options"),
        (["--insecure", "true"], "unexpected argument 'true': there are only options"),
        (["--"], "unexpected argument '--': there are only options"),
        (["--port"], "option --port needs a value"),
        (["--ip", "--port", "1"], "option --ip needs a value"),
        (["-f"], "option -f needs a value"),
        (["--config="], "option --config needs a value"),
        (["--insecure=true"], "option --insecure takes no value"),
        (["--help=x"], "option --help takes no value"),
        (["--port", "abc"], "option --port: 'abc' is not a whole number"),
        (["--port="], "option --port: '' is not a whole number"),
        (["--timeout", "1.5"], "option --timeout: '1.5' is not a whole number"),
        (["--ConfigurableProxy.port=x"], "option --ConfigurableProxy.port: 'x' is not a whole number"),
        (["--ConfigurableProxy.insecure=x"], "option --ConfigurableProxy.insecure: 'x' is not True or False"),
        (
            ["--ConfigurableProxy.custom_header=[x"],
            "option --ConfigurableProxy.custom_header: not a Python list",
        ),
        (["--ConfigurableProxy.prt=1"], "unknown option --ConfigurableProxy.prt"),
        (["--Other.port=1"], "unknown option --Other.port"),
    ],
)
def test_refused(argv, message):
    with pytest.raises(ConfigError) as raised:
        parse(*argv)
    assert str(raised.value).startswith(message)


def test_help_has_every_option():
    text = "\n".join(cli.help_lines(GROUPS))
    for option in WITH_VALUE:
        assert f"  --{option} " in text
    for option in SWITCHES + SWITCHES_OFF:
        assert f"  --{option}\n" in text
    assert "auth-token" not in text
    assert max(map(len, text.splitlines())) <= 80
