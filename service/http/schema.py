"""Requests as pydantic models, and their schemas for the OpenAPI document."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.reading.plates import MIN_CONFIDENCE, MOST_TEXTS


class Strict(BaseModel):
    """A request: an unknown key is an error rather than ignored."""

    model_config = ConfigDict(extra="forbid")


class JsonImage(Strict):
    """One image in a JSON body."""

    data: str | None = Field(
        default=None,
        description="The image's file in base64, also in its URL-safe alphabet; a data: URL is taken too.",
        examples=["/9j/4AAQSkZJRg=="],
    )
    url: str | None = Field(
        default=None,
        description="Instead of `data`: the address of the image, at a host that LPR_FETCH names.",
        examples=["https://images.example/plate.jpg"],
    )
    filename: str | None = Field(
        default=None, description="Comes back with the result, its first 200 characters.", examples=["plate.jpg"]
    )

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.data is None) == (self.url is None):
            raise ValueError("an image has either data or url")
        return self


class JsonImages(Strict):
    """A JSON body of POST /recognize."""

    images: list[JsonImage]


class Options(BaseModel):
    """The query of POST /recognize."""

    top_k: Annotated[int, Field(ge=1, le=MOST_TEXTS)] = Field(
        default=3, description="How many candidates to return for each plate."
    )
    formats: str | None = Field(
        default=None,
        max_length=200,
        alias="format",
        description="Read every plate as a text of one of these formats, by their names with commas between, and as "
        "nothing else.",
        examples=["cn-standard,cn-new-energy"],
    )
    regions: str | None = Field(
        default=None,
        max_length=200,
        alias="region",
        description="Read every plate as one of these countries, by their codes of ISO 3166 with commas between, and "
        "as nothing else; `any` for all, whatever the server's default is.",
        examples=["de,gb"],
    )
    min_confidence: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Leave out plates whose text has less confidence. By default, a plate that was found is left out "
        f"where it is unlikely to be one, and the text of a crop where it has less than {MIN_CONFIDENCE:g}.",
    )
    find: bool | None = Field(
        default=None,
        description="Whether to find the plates in photographs; 0 reads each image as a crop of one plate. Default: "
        "find them where the server has a finder.",
    )
    variant: str | None = Field(
        default=None,
        max_length=200,
        description="Read with this installed variant, as GET /variants names it, instead of the active one.",
    )


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model with nothing to look up elsewhere, for a part of a document that has none of its own.

    Of models that don't contain themselves.
    """
    schema = model.model_json_schema()
    named = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        found = {key: resolved(value) for key, value in node.items() if key != "$ref"}
        return resolved(named[node["$ref"].rsplit("/", 1)[1]]) | found if "$ref" in node else found

    return dict(resolved(schema))
