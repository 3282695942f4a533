from __future__ import annotations

import asyncio
from time import thread_time
from typing import Any
from unittest.mock import Mock

from chp.handlers.waiting import WaitingRequest
from chp.http1.request_target import parse_request_target

REQUESTED = parse_request_target(b"GET", b"/a")


def wait(behind: asyncio.Future[None], exchange: Any) -> WaitingRequest:
    return WaitingRequest(exchange, behind, REQUESTED, "", b"a", False)


async def test_an_aborted_request_is_not_taken_up_again() -> None:
    behind: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gone, stays = Mock(), Mock(**{"find_route.return_value": None})
    wait(behind, gone).abort()
    wait(behind, stays).send(b"b", True)
    behind.set_result(None)
    await asyncio.sleep(0)
    gone.find_route.assert_not_called()
    stays.find_route.assert_called_once_with(REQUESTED, "", b"ab", True)


async def test_thousands_that_leave_cost_no_more_each_than_a_few() -> None:
    def cost(count: int) -> float:
        behind: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        requests = [wait(behind, None) for _ in range(count)]
        started = thread_time()
        for request in requests:
            request.abort()
        return (thread_time() - started) / count

    few = max(cost(200) for _ in range(5))
    assert min(cost(8000) for _ in range(3)) < 5 * few
