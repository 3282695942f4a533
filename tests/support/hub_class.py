"""A plugin for pytest that JupyterHub's own tests are run with: their Hub has ``chp``'s proxy class."""

from __future__ import annotations

from jupyterhub.app import JupyterHub

from chp.jupyterhub import CHPProxy

JupyterHub.proxy_class.default_value = CHPProxy
