"""A plugin for pytest that JupyterHub's own tests are run with: their Hub has ``chp``'s proxy class."""

from __future__ import annotations

from jupyterhub.app import JupyterHub

from chp.jupyterhub import CHPProxy

JupyterHub.proxy_class.default_value = CHPProxy
# A test starts a proxy of its own again, and looks at it before it lets the Hub restore the routes.
CHPProxy.check_running_interval.default_value = 0
