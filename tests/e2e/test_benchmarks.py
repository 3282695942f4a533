"""The parts of the benchmarks work; how fast anything is does not matter here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import PATIENCE

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--peers", "chp", "--rounds", "1", "--seconds", "0.1"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )


def test_workloads_run_and_are_written_down(tmp_path: Path) -> None:
    result = run("--only", "small,ws-100,events,start", "--write", str(tmp_path))
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "performance.json").read_text())
    assert [one["workload"] for one in figures["results"]] == ["small", "ws-100", "events", "start"]
    for one in figures["results"][:3]:
        assert one["peer"] == "chp"
        assert one["rate"] > 0
        assert one["p50_ms"] > 0
        assert one["cpu_us"] >= 0  # counted in ticks: there may be none
    assert "## CPU time for each operation" in (tmp_path / "performance.md").read_text()
    assert (tmp_path / "performance.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize("argument", ["--only", "--peers"])
def test_unknown_names_are_refused(argument: str) -> None:
    result = run(argument, "nonsense")
    assert result.returncode == 2
    assert "unknown: nonsense" in result.stderr
