"""What the documentation shows works as it stands there, and what is generated is up to date."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PATIENCE, TOKEN, Proxy, fetch, running
from support.examples import ROOT, example
from support.wire import backend

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
