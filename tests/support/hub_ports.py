"""JupyterHub takes its ports from :mod:`support.ports`: a part of its configuration, a plugin for its tests.

It chooses one for each user's server, and lets it go a second or two before that listens on it.
"""

from __future__ import annotations

import sys

import jupyterhub.utils
from support.ports import free_port

_chosen_by_the_system = jupyterhub.utils.random_port
for _module in list(sys.modules.values()):  # those that have imported it by name
    if getattr(_module, "random_port", None) is _chosen_by_the_system:
        _module.random_port = free_port  # type: ignore[attr-defined]
