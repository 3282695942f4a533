from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.api import Api
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from chp.api_client import fetch
from chp.errors import ApiError


async def test_over_tcp(serve: Any) -> None:
    async with serve(Api("secret").application) as server:
        url = f"http://127.0.0.1:{server.port}/api/routes"
        body = json.dumps({"target": "http://127.0.0.1:9000"})
        assert await fetch(f"{url}/a", method="POST", token="secret", body=body) == b""
        assert b'"/a":' in await fetch(url, method="GET", token="secret")
        assert await fetch(f"{url}/a", method="DELETE", token="secret") == b""
        with pytest.raises(ApiError, match="404") as not_found:
            await fetch(f"{url}/a", method="GET", token="secret")
        assert not_found.value.status == 404
        with pytest.raises(ApiError, match="403"):
            await fetch(url, method="GET", token="wrong")
        with pytest.raises(ApiError, match="400 Must specify 'target' as string"):
            await fetch(f"{url}/a", method="POST", token="secret", body="{}")


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "Some Where.sock")
    server = HTTPServer(Api("secret").application)
    server.add_socket(bind_unix_socket(path))
    url = f"http+unix://{quote(path, safe='')}/api/routes"
    assert await fetch(url, method="GET", token="secret") == b"{}"
    server.stop()
    await server.close_all_connections()
    with pytest.raises(ApiError, match="599") as refused:
        await fetch(url, method="GET", token="secret")
    assert refused.value.status == 599


async def test_no_answer() -> None:
    with pytest.raises(ApiError, match="599 Connection refused"):
        await fetch("http://127.0.0.1:1/api/routes", method="GET", token="secret")


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "test.api")
