"""Who may import whom: the one-way rules of docs/architecture.md."""

import ast
import sys
from pathlib import Path

import pytest

import chp

ROOT = Path(chp.__file__).parent

# What a room may import of the package. A room that is missing here may import everything.
LEAVES = {"chp.errors", "chp.metrics", "chp.runtime", "chp.sockets", "chp.tls", "chp.config.settings"}
ALLOWED = {
    "errors.py": set(),
    "metrics.py": set(),
    "log.py": set(),
    "logfile.py": {"chp.errors"},
    "sockets.py": set(),
    "descriptors.py": set(),
    "notify.py": set(),
    "processes.py": set(),
    "api_client.py": {"chp.errors"},
    "child.py": {"chp.notify", "chp.processes"},
    "route_changes.py": {"chp.errors"},
    "private_directory.py": set(),
    "jupyterhub.py": {
        *("chp.errors", "chp.notify", "chp.processes", "chp.child", "chp.api_client", "chp.route_changes"),
        *("chp.private_directory", "chp.config.token"),
    },
    "repeats.py": set(),
    "runtime.py": {"chp.metrics", "chp.repeats"},
    "tls.py": {"chp.runtime", "chp.sockets"},
    "http1": {"chp.errors", "chp.http1"},
    "routing": {"chp.errors", "chp.metrics", "chp.http1", "chp.routing"},
    "upstream": LEAVES | {"chp.http1", "chp.upstream"},
    "servers": LEAVES | {"chp.http1", "chp.servers"},
    "handlers": LEAVES
    | {"chp.logfile", "chp.http1", "chp.routing", "chp.upstream", "chp.servers", "chp.handlers"},
    "config": {"chp.errors", "chp.descriptors", "chp.http1", "chp.config"},
}

# Which files may use a library.
LIBRARIES = {
    "traitlets": ("app.py", "config/", "jupyterhub.py", "routing/storage/"),
    "httptools": ("servers/parser.py", "upstream/direct", "upstream/curl_response.py"),
    "pycurl": ("upstream/curl",),
    "uvloop": ("app.py",),
    "redis": ("routing/storage/redis_",),
    "sqlalchemy": ("routing/storage/sql",),
    "prometheus_client": ("handlers/metrics.py",),
    "jupyterhub": ("jupyterhub.py",),
}

FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imports(text):
    """Yield every module that a source imports; ``from a import b`` as ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from ((node.module, f"{node.module}.{alias.name}") for alias in node.names)


def violations(file, text):
    room = file.split("/")[0]
    for names in imports(text):
        module = names[0]
        library = module.split(".")[0]
        if library == "chp":
            # "from chp import x" is judged by x; chp itself has only the version.
            allowed = ALLOWED.get(room)
            if allowed is not None and module != "chp" and not any(_within(module, one) for one in allowed):
                yield f"{file} imports {module}"
            if allowed is not None and module == "chp" and len(names) == 2:
                inner = names[1]
                if inner != "chp.__version__" and not any(_within(inner, one) for one in allowed):
                    yield f"{file} imports {inner}"
        elif library in LIBRARIES:
            if not file.startswith(LIBRARIES[library]):
                yield f"{file} imports {library}"
        elif room == "http1" and library not in sys.stdlib_module_names:
            yield f"{file} imports {library}"


def _within(module, allowed):
    return module == allowed or module.startswith(allowed + ".")


@pytest.mark.parametrize("file", FILES)
def test_imports(file):
    assert list(violations(file, (ROOT / file).read_text())) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("servers/x.py", "from chp.routing.table import RouteTable"),
        ("servers/x.py", "def f():\n    import chp.upstream.direct"),
        ("routing/x.py", "from chp.upstream.base import Upstream"),
        ("upstream/x.py", "from chp import routing"),
        ("http1/x.py", "import httptools"),
        ("http1/x.py", "import tornado.httputil"),
        ("handlers/x.py", "import traitlets"),
        ("handlers/x.py", "from chp.app import main"),
        ("upstream/pool.py", "import pycurl"),
        ("routing/table.py", "import redis.asyncio"),
        ("routing/storage/link.py", "from sqlalchemy import text"),
        ("config/x.py", "from chp.servers.proxy import ProxyServer"),
    ],
)
def test_forbidden_imports_are_found(file, text):
    assert list(violations(file, text))


def test_every_directory_is_a_package():
    """Otherwise an installed package would lack it."""
    missing = {path.parent for path in ROOT.rglob("*.py") if not (path.parent / "__init__.py").exists()}
    assert missing == set()
