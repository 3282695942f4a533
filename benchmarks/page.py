from pathlib import Path

from benchmarks.report import Report


def write(report: Report, folder: Path) -> None:
    (folder / "performance.json").write_text(report.as_json())
