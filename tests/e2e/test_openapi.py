"""The REST API is what docs/openapi.yaml says: Schemathesis asks a running one for whatever it describes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance
from support.commands import TOKEN, Proxy, running

# A pattern can't say everything of a URL.
schemathesis.openapi.format(
    "uri",
    st.builds(
        "{}://{}{}{}".format,
        st.sampled_from(["http", "https", "HTTP"]),
        st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?|\[::1\]", fullmatch=True),
        st.just("") | st.integers(1, 65535).map(":{}".format),
        st.from_regex(r"(/[!-~]{0,10})?", fullmatch=True),
    )
    | st.sampled_from(["http+unix://%2Frun%2Fhub.sock/hub", "unix+http://%2Frun%2Fhub.sock"]),
)
SCHEMA = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.yaml")
OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
}
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
# What takes nothing can't be asked wrongly; any string is a path.
CASES = [(name, POSITIVE) for name in OPERATIONS] + [
    (name, NEGATIVE) for name, operation in OPERATIONS.items() if operation.body or operation.query
]
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def chp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(Proxy(tmp_path_factory.mktemp("chp"))) as it:
        yield it


@pytest.mark.parametrize(("name", "mode"), CASES, ids=[f"{name}-{mode.value}" for name, mode in CASES])
def test_the_api_is_what_its_description_says(
    name: str, mode: schemathesis.GenerationMode, chp: Proxy
) -> None:
    base_url = chp.api_url.removesuffix("/api/routes")

    # Neither can one say which months have 31 days.
    excluded = [positive_data_acceptance] if name == "GET /api/routes" else []

    @SETTINGS
    @given(case=OPERATIONS[name].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(
            base_url=base_url, headers={"Authorization": f"token {TOKEN}"}, excluded_checks=excluded
        )

    ask()
    assert "Traceback" not in chp.log
