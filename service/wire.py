"""Answers of the server as pydantic models, for the server and its clients alike."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from service.artifact import BackendName, Measured, ReadManifest


class FromAttributes(BaseModel):
    """Built from an object with the same attributes."""

    model_config = ConfigDict(from_attributes=True)


Confidence = Annotated[float, Field(ge=0, le=1)]


class Character(FromAttributes):
    """One character of the text."""

    char: str = Field(examples=["京"])
    confidence: Confidence = Field(description="Its largest probability where the best alignment sees it.")


class Candidate(FromAttributes):
    """One possible text."""

    text: str = Field(examples=["京A12345"])
    confidence: Confidence = Field(
        description="Posterior probability of exactly this text. Beforehand, a text that fits no known format is a "
        "hundred times less probable than one that does. The confidences of all texts add up to at most 1."
    )


class Region(FromAttributes):
    """The country that a plate is most probably of."""

    code: str = Field(description="ISO 3166, in small letters.", examples=["de"])
    probability: Confidence = Field(
        description="By text, colour, rows and shape, if the text is right. Beforehand, all countries are equally "
        "probable."
    )


class Plate(FromAttributes):
    """One plate and what it says."""

    text: str = Field(examples=["京A12345"])
    confidence: Confidence = Field(description="That of the first candidate.")
    valid_format: bool = Field(description="Whether the text fits a known format.")
    formats: list[str] = Field(
        description="Names of the formats that the text fits: families of texts. Of a plate that was found, those that "
        "have a kind of plate of its colour, rows and shape, if any has.",
        examples=[["cn-standard"]],
    )
    region: Region | None = Field(
        default=None, description="Null where no kind of a country has such a text, or where the model names none."
    )
    characters: list[Character]
    candidates: list[Candidate] = Field(
        description="The `top_k` texts of the highest confidence, sorted by it; the first is `text`."
    )
    box: Annotated[list[tuple[float, float]], Field(min_length=4, max_length=4)] = Field(
        description="Corners [x, y] in pixels of the image, EXIF orientation applied: the plate's top left as it is "
        "read, then clockwise. They may lie outside the image. With find=0: the corners of the image.",
        examples=[[[112.4, 310.9], [251.0, 318.2], [250.1, 362.7], [111.8, 354.0]]],
    )
    found: Confidence | None = Field(
        default=None, description="Probability that this is a plate, whatever it says; null with find=0, as all below."
    )
    rows: Annotated[int, Field(ge=1, le=2)] | None = Field(default=None, description="Rows of characters, 1 or 2.")
    colour: str | None = Field(
        default=None,
        description="Colour of the plate: blue, yellow, green, white, black, red or other.",
        examples=["blue"],
    )
    cut: bool | None = Field(default=None, description="Whether the edge of the image cuts the plate.")


class Fault(BaseModel):
    """Why something was not read; `detail` says what to send instead."""

    type: str = Field(examples=["urn:lpr:undecodable_image"])
    title: str = Field(examples=["Bad Request"])
    status: int = Field(examples=[400])
    detail: str = Field(examples=["The image is damaged or was cut off: send the whole file, unchanged."])


class Problem(Fault):
    """The answer to a request that was refused."""

    request_id: str = Field(description="As in X-Request-Id, and in the server's log.", examples=["5f0c3a9e"])


class Result(BaseModel):
    """What one image shows."""

    filename: str | None = Field(description="As sent with the image; null for a raw body.", examples=["plate.jpg"])
    plates: list[Plate] = Field(
        description="The largest first; without those that are too unsure, so that it may be empty."
    )
    note: str | None = Field(
        default=None,
        description="Why an image that was read has no plate.",
        examples=["No plate was found."],
    )
    truncated: bool = Field(
        default=False,
        description="Whether the file ends before its image does: what is missing, at most half, was read as grey.",
    )
    error: Fault | None = Field(
        default=None,
        description="Why this image was not read, where the request has several; a request of one is refused instead.",
    )


class Model(BaseModel):
    """Which model read it, and what ran it."""

    variant: str = Field(examples=["baseline"])
    version: str = Field(examples=["1.0.0"])
    engine: str = Field(examples=["torch 2.13.0"])


class TimingMs(FromAttributes):
    """Milliseconds in the server once the body had arrived, for all images of the request together."""

    decode: float
    find: float
    rectify: float
    preprocess: float
    queue: float
    inference: float
    postprocess: float
    total: float


class Recognition(BaseModel):
    """The answer to POST /recognize: one result per image, in their order."""

    backend: str = Field(examples=["baseline"])
    model: Model
    results: list[Result]
    timing_ms: TimingMs


class Served(ReadManifest):
    """The answer to GET /model: the manifest of the model served, and what runs it here."""

    engine: str = Field(
        description="The engine, its version and, of a compiled model, the CPU level of the library chosen here.",
        examples=["tvm 0.27.0.post1 x86-64-v4-vnni"],
    )
    finds: bool = Field(
        description="Whether the server finds plates in photographs; if not, an image is a crop of one plate."
    )


class Installed(BaseModel):
    """A variant that is installed; where its manifest cannot be read, only `problem` says more than its name."""

    variant: str = Field(examples=["baseline"])
    version: str | None = None
    backend: BackendName | None = Field(default=None, description="The engine that runs it.")
    created: AwareDatetime | None = None
    measured: Measured | None = Field(default=None, description="Accuracy, latency and size, as its builder measured.")
    active: bool = Field(default=False, description="Whether it reads the requests that choose nothing.")
    loaded: bool = False
    choosable: bool = Field(default=False, description="Whether POST /recognize?variant= may name it.")
    problem: str | None = Field(default=None, description="Why it cannot be used here.")


class Listing(BaseModel):
    """The answer to GET /variants."""

    active: str = Field(examples=["tvm-fast"])
    shadow: str | None = Field(description="The variant that is compared with it, if any.", examples=["tvm"])
    variants: list[Installed]


class Status(BaseModel):
    """A health probe's answer."""

    status: str = Field(examples=["ok"])
