"""What the documentation shows works as it stands there, and what is generated is up to date."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from support.commands import PATIENCE, TOKEN, Proxy, fetch, running
from support.examples import ROOT, example
from support.ports import free_port
from support.wire import backend

from chp.app import ConfigurableProxy
from chp.config import cli
from chp.handlers.metrics import render
from chp.metrics import Metrics

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs").glob("*.md"),
]


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "make_options.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_tests_that_pages_name_exist() -> None:
    for file, name in re.findall(
        r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/security.md").read_text()
    ):
        assert f"def {name}(" in (ROOT / file).read_text() or not name, f"{file} has no {name}"


def test_every_metric_is_explained() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    names = re.findall(r"^# TYPE (\w+)", render(Metrics(), routes=0), re.MULTILINE)
    assert len(names) > 20
    assert [name for name in names if not re.search(rf"`{name}[`{{]", page)] == []


async def test_storage_backend_keeps_routes_and_their_activity(tmp_path: Path) -> None:
    (tmp_path / "json_store.py").write_text(example("class JsonStore", "docs/storage.md"))
    config = tmp_path / "chp_config.py"
    config.write_text(
        'c.ConfigurableProxy.storage_backend = "json_store.JsonStore"\nc.JsonStore.path = "kept.json"\n'
    )
    with running(Proxy(tmp_path, PYTHONPATH=str(tmp_path))) as proxy:
        await proxy.add_route("/user/ada", "http://127.0.0.1:9")
        await proxy.add_route("/user/ben", "http://127.0.0.1:9")
        assert (await proxy.api("DELETE", "/user/ben")).code == 204
        before = json.loads((await proxy.api("GET")).body)
        assert proxy.stop() == 0
    assert list(json.loads((tmp_path / "kept.json").read_text())) == ["/user/ada"]
    with running(Proxy(tmp_path, PYTHONPATH=str(tmp_path))) as proxy:
        assert json.loads((await proxy.api("GET")).body) == before


def test_kubernetes_example() -> None:
    (manifests,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/storage.md").read_text(), re.M | re.S)
    deployment, *services = yaml.safe_load_all(manifests)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    values = cli.parse(container["args"], ConfigurableProxy).values
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {name: values[f"{name}_port".removeprefix("http_")] for name in ports}
    for service in services:
        assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)


async def test_two_proxies_on_one_machine(tmp_path: Path) -> None:
    commands = re.findall(r"^\$ chp (--reuse-port .*) &$", (ROOT / "docs/storage.md").read_text(), re.M)
    assert len(commands) == 2
    port, api_port = free_port(), free_port()
    with ExitStack() as stack:
        proxies = []
        for number, command in enumerate(commands):
            line = re.sub(r"--metrics-port \d+", "--metrics-port 0", command)
            line = line.replace("--port 8000", f"--port {port} --api-port {api_port}")
            line = line.replace("sqlite:///", f"sqlite:///{tmp_path}/")
            directory = tmp_path / str(number)
            directory.mkdir()
            proxies.append(stack.enter_context(running(Proxy(directory, *line.split()))))
        await proxies[0].add_route("/docs", "http://127.0.0.1:9")
        for proxy in proxies:
            assert proxy.url.endswith(f":{port}")
            proxy.wait_for("route /docs -> |Route added /docs -> ")


async def test_configured_function_changes_requests(tmp_path: Path) -> None:
    config = tmp_path / "region.py"
    config.write_text(example("def add_region"))
    async with backend() as it:
        with running(Proxy(tmp_path, "--config", str(config), "--default-target", it.url)) as proxy:
            assert (await fetch(f"{proxy.url}/x")).code == 200
        assert b"\r\nX-Region: north\r\n" in it.all_received


def test_proxy_runs_inside_another_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(example("start_servers"))
    result = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"Proxy: \('127\.0\.0\.1', \d+\) API: \('127\.0\.0\.1', \d+\)\n", result.stdout)
    assert TOKEN not in result.stderr
