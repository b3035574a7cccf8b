"""The server does what its OpenAPI document says, asked by schemathesis: right and wrong values, with real images."""

from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from model_builder.measure.load import images
from service.http.uploads import IMAGE_TYPES, OCTETS

EXAMPLES = 40  # of each operation and mode
LONGEST = 8000  # bytes of a query: a longer address is refused while it is parsed (tests/process/test_connection.py)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_it_does_what_its_document_says(client: httpx.Client, mode: str) -> None:
    import schemathesis  # here, because it takes a second
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    # Not among them: that whatever fits the document is accepted. No document can say which bytes are an image.
    checked = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]
    files = st.sampled_from([*images.seeds().values(), *images.polyglots().values()]) | st.binary(max_size=99)
    for media_type in (*IMAGE_TYPES, OCTETS):
        schemathesis.openapi.media_type(media_type, files)
    generation = schemathesis.GenerationMode(mode)
    document = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    asked = []
    for operation in (found.ok() for found in document.get_all_operations()):
        if generation.is_negative and not (operation.body or operation.query):
            continue  # there is nothing that could be wrong about it: what stands in a path is a text, whatever it is
        asked.append(operation.label)

        @settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=generation))
        def ask(case: schemathesis.Case) -> None:
            assume(len(urlencode(case.query or {}, doseq=True)) < LONGEST)
            case.call_and_validate(checks=checked, timeout=30)

        ask()
    assert {"POST /recognize", "POST /v2/models/{name}/infer"} <= set(asked)


def test_the_document_names_the_query_of_recognize(client):
    document = client.get("/openapi.json").json()
    found = {each["name"]: each["schema"] for each in document["paths"]["/recognize"]["post"]["parameters"]}
    assert set(found) == {"top_k", "format", "region", "min_confidence", "find", "variant"}
    assert (found["top_k"]["minimum"], found["top_k"]["maximum"], found["top_k"]["default"]) == (1, 10, 3)
