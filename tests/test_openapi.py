"""The server does what its OpenAPI document says, asked by schemathesis: right, wrong and missing, with real images."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from service.body import IMAGE_TYPES
from tests.load import images

# Not among them: that whatever fits the document is accepted. No document can say which bytes are an image.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]

for media_type in IMAGE_TYPES:
    schemathesis.openapi.media_type(
        media_type, st.sampled_from([*images.seeds().values(), *images.polyglots().values()]) | st.binary(max_size=99)
    )


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> OpenApiSchema:
    """That of a real server."""
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


@schemathesis.pytest.from_fixture("document").parametrize()
@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_it_does_what_its_document_says(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS, timeout=30)
