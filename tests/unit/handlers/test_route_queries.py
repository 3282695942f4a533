from __future__ import annotations

from datetime import datetime, timezone

import pytest

from chp.handlers.route_queries import parse_date


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2024", datetime(2024, 1, 1)),
        ("2024-05", datetime(2024, 5, 1)),
        ("2024-05-06", datetime(2024, 5, 6)),
        ("2024-05-06T07:08Z", datetime(2024, 5, 6, 7, 8)),
        ("2024-05-06T07:08:09Z", datetime(2024, 5, 6, 7, 8, 9)),
        ("2024-05-06t07:08:09.1z", datetime(2024, 5, 6, 7, 8, 9, 100000)),
        ("2024-05-06 07:08:09.123456Z", datetime(2024, 5, 6, 7, 8, 9, 123456)),
        ("2024-05-06T07:08:09,5Z", datetime(2024, 5, 6, 7, 8, 9, 500000)),
        ("2024-05-06T07:08:09+02:00", datetime(2024, 5, 6, 5, 8, 9)),
        ("2024-05-06T07:08:09-0230", datetime(2024, 5, 6, 9, 38, 9)),
    ],
)
def test_dates(text: str, utc: datetime) -> None:
    assert parse_date(text) == utc.replace(tzinfo=timezone.utc).timestamp()


def test_a_time_without_zone_is_local() -> None:
    assert parse_date("2024-05-06T07:08:09") == datetime(2024, 5, 6, 7, 8, 9).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "yesterday",
        "Jan 1 2030",
        "20240506",
        "2024-5-6",
        "2024-13-01",
        "2024-02-30",
        "0000-01-01",
        "2024-05-06T25:00Z",
        "2024-05-06T07:61Z",
        "2024-05-06T07Z",
        "2024-05-06Z",
        "2024-05-06T07:08:09 02:00",
        "2024-05-06T07:08:09.Z",
        "2024-05-06T07:08:09Z ",
        "\u0662024-05-06",
    ],
)
def test_no_dates(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_date(text)
