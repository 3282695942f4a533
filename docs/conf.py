"""Settings of Sphinx: ``sphinx-build -W docs docs/_build``."""

import chp

project = "chp"
author = "The chp developers"
project_copyright = author
release = version = chp.__version__

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "A configurable reverse proxy for JupyterHub"}
