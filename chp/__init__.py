"""A configurable reverse proxy for JupyterHub and everything like it."""

__version__ = "0.1.0"
