"""A bar chart as SVG: CPU time for each operation, that of configurable-http-proxy on Node being 100 %."""

from __future__ import annotations

from html import escape

from benchmarks.report import Report

COMPARED = "node"
_SHOWN = {
    "chp": "#1f6feb",
    "chp-compiled": "#54aeff",
    "node": "#8b949e",
    "traefik": "#d29922",
    "haproxy": "#2da44e",
    "nginx": "#a371f7",
}
_LEFT, _WIDTH, _RIGHT = 210, 480, 60  # pixels: titles, bars, figures
_BAR, _GAP, _TOP = 11, 12, 46
_MOST = 1.3  # of Node; a longer bar is cut, and its figure says how long it is


def draw(report: Report, workloads: dict[str, str], peers: dict[str, str]) -> str:
    """Draw the given workloads and peers (titles by name)."""
    shown = {name: colour for name, colour in _SHOWN.items() if name in peers}
    rows = [name for name in workloads if report.ratio("cpu_us", name, "chp", COMPARED) is not None]
    parts: list[str] = []
    x = float(_LEFT)
    for name, colour in shown.items():
        parts.append(f'<rect x="{x:.0f}" y="12" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14:.0f}" y="21">{escape(peers[name])}</text>')
        x += 32 + 6.4 * len(peers[name])
    y = _TOP
    for row in rows:
        found = [(name, report.ratio("cpu_us", row, name, COMPARED)) for name in shown]
        bars = [(name, share) for name, share in found if share is not None]
        middle = y + len(bars) * _BAR / 2 + 4
        title = escape(workloads[row])
        parts.append(f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{title}</text>')
        for name, share in bars:
            width = min(share, _MOST) / _MOST * _WIDTH
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 1}" fill="{shown[name]}"/>'
                f'<text x="{_LEFT + width + 4:.1f}" y="{y + 9}" font-size="10">{share:.0%}</text>'
            )
            y += _BAR
        y += _GAP
    node = _LEFT + _WIDTH / _MOST
    line = f'<line x1="{node:.0f}" y1="{_TOP - 6}" x2="{node:.0f}" y2="{y - 6}" stroke="#8b949e"'
    width = _LEFT + _WIDTH + _RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}"'
        ' font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{y}" fill="#ffffff"/>\n'
        f'{line} stroke-dasharray="3 3"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
