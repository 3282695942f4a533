"""For tests of endurance: one running proxy for each upstream, which has to stand all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.commands import running
from support.inspected import InspectedProxy

# How many times as much is done; ``make soak`` asks for more.
FACTOR = int(os.environ.get("SOAK_FACTOR", "1"))
_QUICK = (("asyncio", "direct"), ("uvloop", "curl"))
_SOAK = (("uvloop", "direct"), ("asyncio", "curl"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "robustness" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds=60 * FACTOR))


@pytest.fixture(scope="module", params=_QUICK + (_SOAK if FACTOR > 1 else ()), ids="-".join)
def chp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedProxy]:
    event_loop, upstream = request.param
    directory = tmp_path_factory.mktemp("chp")
    with running(InspectedProxy(directory, "--event-loop", event_loop, "--upstream", upstream)) as it:
        yield it


@pytest.fixture
def factor() -> int:
    return FACTOR
