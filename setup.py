"""What pyproject.toml can't say: where data files go, and what is compiled.

The top-level share/ is installed inside the package, as chp/share/. Data files of the package are
found wherever it is installed; sys.prefix/share would not be there in an editable installation, nor
with pip install --user or --target.

``CHP_COMPILE=1 pip install .`` compiles the modules that every request passes through, with mypyc. Without
it, and in an editable installation, everything is plain Python.
"""

import os
import sys

from setuptools import find_packages, setup

COMPILE = os.environ.get("CHP_COMPILE") == "1"

# One group: its modules call one another's functions directly, and see one another's attributes. Whatever
# is a subclass of a class in here must be in here, too.
COMPILED = {
    "": ["metrics", "runtime", "sockets", "tls"],
    "config/": ["settings"],
    "handlers/": ["access", "errors", "fields", "frames", "proxy", "waiting", "websocket"],
    "http1/": ["fields", "forwarded", "framing", "head", "request_target", "response", "target", "trust"],
    "routing/": ["route", "trie"],
    "servers/": ["connection", "parser"],
    "upstream/": ["base", "choice", "curl", "curl_stream", "direct", "direct_connection", "limit"],
}


def extensions():
    """Return the compiled modules, when a wheel is built; before that, pip only asks for metadata."""
    if not COMPILE or "bdist_wheel" not in sys.argv:
        return []
    from mypyc.build import mypycify  # noqa: PLC0415 - it is there only then

    # Types are checked by make lint; here the libraries need not be installed.
    options = ["--config-file=", "--ignore-missing-imports"]
    files = [f"chp/{room}{module}.py" for room, modules in COMPILED.items() for module in modules]
    return mypycify([*options, *files], opt_level="2", debug_level="0", group_name="chp")


setup(
    packages=[*find_packages(include=["chp", "chp.*"]), "chp.share"],
    package_dir={"chp.share": "share"},
    package_data={
        "chp": ["py.typed"],
        "chp.share": ["chp-errors/*.html", "systemd/*.service", "docker/Dockerfile"],
    },
    setup_requires=["mypy[mypyc]>=2.4"] if COMPILE else [],
    ext_modules=extensions(),
)
