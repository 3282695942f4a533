"""Results of several rounds made one, as tables and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import sys
import sysconfig
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from benchmarks.load import Load
from benchmarks.targets import TARGETS


@dataclass(frozen=True)
class Result:
    """One workload through one proxy."""

    workload: str
    peer: str
    cpu_us: float | None = None  # user and system time for each operation
    rate: float | None = None  # operations in a second
    p50_ms: float | None = None
    p99_ms: float | None = None
    rss_mb: float | None = None  # after the load
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All results of one run, and what they were measured on."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    seconds: float
    rounds: int
    results: list[Result]

    @classmethod
    def of(cls, results: list[Result], versions: dict[str, str], seconds: float, rounds: int) -> Report:
        date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        return cls(date, _machine(), versions, seconds, rounds, results)

    def find(self, workload: str, peer: str) -> Result | None:
        for result in self.results:
            if (result.workload, result.peer) == (workload, peer):
                return result
        return None

    def ratio(self, figure: str, workload: str, peer: str, compared: str) -> float | None:
        """Return what ``peer`` needs of it, that of ``compared`` being 1."""
        values = [self.value(figure, workload, name) for name in (peer, compared)]
        return values[0] / values[1] if values[0] is not None and values[1] else None

    def value(self, figure: str, workload: str, peer: str) -> float | None:
        result = self.find(workload, peer)
        if result is None:
            return None
        value: float | None = getattr(result, figure, None)
        return result.more.get(figure) if value is None else value

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        data = json.loads(text)
        data["results"] = [Result(**result) for result in data["results"]]
        return cls(**data)


def result(workload: str, peer: str, load: Load, cpu: float, memory: int) -> Result:
    return Result(
        workload,
        peer,
        cpu / load.operations * 1e6,
        load.operations / load.seconds,
        load.p50 * 1e3,
        load.p99 * 1e3,
        memory / 1024 / 1024,
        load.more,
    )


def joined(several: list[Result]) -> Result:
    """Make one result of several rounds: the least CPU time, and the middle of everything else.

    Whatever disturbs a program can only add to its CPU time: caches that others have filled, a core
    that slows down. The least is what the work itself takes.
    """
    first = several[0]

    def of(name: str) -> float:
        return median(getattr(one, name) for one in several)

    return Result(
        first.workload,
        first.peer,
        min(one.cpu_us or 0 for one in several),
        *(of(name) for name in ("rate", "p50_ms", "p99_ms", "rss_mb")),
        more={name: median(one.more[name] for one in several) for name in first.more},
    )


def print_table(results: list[Result], workload: str, title: str, unit: str) -> None:
    print(f"\n{title}" + (f" (CPU time for each {unit})" if unit else ""))
    for one in results:
        if one.workload != workload:
            continue
        line = f"  {one.peer:12}"
        if one.cpu_us is not None:
            line += f"{one.cpu_us:10.1f} µs{one.rate:10.0f}/s   p50 {one.p50_ms:8.2f} ms"
            line += f"   p99 {one.p99_ms:8.2f} ms{one.rss_mb:8.1f} MB"
        print(line, *(f"  {name} {value:.2f}" for name, value in one.more.items()), flush=True)


def print_targets(report: Report) -> None:
    print("\nTargets")
    for target in TARGETS:
        for text, found in (
            (target.text, target.measured(report)),
            (f"{target.text}, compiled", target.measured(report, compiled=True)),
        ):
            if found is not None:
                kept = "kept  " if found <= target.limit else "MISSED"
                print(f"  {kept} {text:68} {found:8.2f}  (at most {target.limit:g})")


def _machine() -> dict[str, str]:
    """Describe the machine, without its name."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": str(os.cpu_count()),
        "processor": model[1] if model else platform.machine(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"{platform.python_version()} ({_python_build()})",
    }


def _python_build() -> str:
    """Say who built Python: one that was built by hand, without optimisation, costs a tenth more."""
    if sys.base_prefix == "/usr":
        return "the distribution's"
    return (
        "optimised"
        if "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
        else "not optimised"
    )
