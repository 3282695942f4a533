from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from chp.http1.fields import Field
from chp.http1.target import Origin
from chp.upstream.base import UpstreamRequest

FIELDS = [(b"Host", b"h"), (b"A", b"b")]


def request() -> UpstreamRequest:
    return UpstreamRequest(Origin("http", "h", 80), b"GET", b"/", b"\r\nOld: 1")


@pytest.mark.parametrize("form", [list, tuple, iter, lambda pairs: dict(pairs).items()])
def test_a_hook_may_assign_fields_in_any_form(form: Callable[[list[Field]], Iterable[Field]]) -> None:
    it = request()
    it.fields = form(FIELDS)
    assert it.block == b"\r\nHost: h\r\nA: b"
    assert it.fields == FIELDS


@pytest.mark.parametrize("fields", [None, 3, [("A", "b")], [b"A"], [(b"A",)], [None]])
def test_what_are_no_fields_is_an_error_and_changes_nothing(fields: Any) -> None:
    it = request()
    with pytest.raises((TypeError, ValueError)):
        it.fields = fields
    assert it.block == b"\r\nOld: 1"


@pytest.mark.parametrize("field", [(b"A\r\nB", b"c"), (b"A", b"b\nc"), (b"A", b"\0")])
def test_a_field_can_not_hold_the_end_of_its_line(field: Field) -> None:
    it = request()
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        it.fields = [field]
    assert it.block == b"\r\nOld: 1"
