"""All that can be configured, from environment variables with the prefix LPR_; nothing else reads the environment."""

import textwrap
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import cpu

REPOSITORY = Path(__file__).resolve().parent.parent
INDENT = 6 * " "

Positive = Annotated[int, Field(gt=0)]


def _split(value: object) -> object:
    """A variable's text as the parts between its commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _long(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < 16:
        raise ValueError("a key needs at least 16 characters: `openssl rand -hex 16` makes one")
    return key


Key = Annotated[SecretStr, AfterValidator(_long)]


class Settings(BaseSettings):
    """Each field is the environment variable LPR_<NAME>; its description is the documentation."""

    model_config = SettingsConfigDict(env_prefix="LPR_", env_ignore_empty=True, frozen=True, extra="forbid")

    backend: str = Field(
        default="tvm-pruned-int8", description="Name of the variant to serve: a folder below LPR_ARTIFACTS."
    )
    artifacts: Path = Field(default=REPOSITORY / "artifacts", description="Folder that holds the variants.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: Positive = Field(
        default=1,
        description="Processes that serve the port together, each with a copy of everything; the limits below are for "
        "each of them. Beyond 1, one more process starts them and replaces those that end.",
    )
    threads: Positive = Field(
        default_factory=lambda others: max(1, cpu.available() // others.get("workers", 1)),
        description="CPU threads of a process, each with a network of its own: so many plates are computed at a time. "
        "Default: what the affinity mask and the cgroup limit allow, shared among the processes.",
    )
    max_bytes: Positive = Field(default=16 * 1024**2, description="Largest request body in bytes; beyond it: 413.")
    max_pixels: Positive = Field(
        default=25_000_000, description="Largest image in pixels, by its header; beyond it: 413."
    )
    max_images: Positive = Field(default=32, description="Most images in one request; beyond it: 422.")
    queue: Positive = Field(default=256, description="Most images waiting or being read at a time; beyond it: 429.")
    queue_bytes: Positive = Field(
        default=256 * 1024**2,
        description="Most bytes of request bodies held at a time, also of those that still arrive; beyond it: 429.",
    )
    upload_s: float = Field(
        default=30.0, gt=0, description="Seconds that a request's head may take to arrive, then its body: 408."
    )
    deadline_ms: float = Field(
        default=5000.0,
        gt=0,
        description="Milliseconds that images may wait for a thread; what waited longer is not read any more: 503.",
    )
    batch_wait_ms: float = Field(
        default=0.0,
        ge=0,
        description="Milliseconds for which a thread that is free waits for more images to compute together with the "
        "first. At 0 it takes what waits by itself, up to the variant's largest batch.",
    )
    choice: bool = Field(
        default=True,
        description="Whether a request may choose another installed variant; it is loaded beside the active one then.",
    )
    memory: Path | None = Field(
        default=None,
        description="A file that keeps the variant that the server was switched to: after a restart it goes before "
        "LPR_BACKEND, and all processes that share the file switch together.",
    )
    shadow: str | None = Field(
        default=None, description="A variant that reads part of the traffic too, to be compared; none by default."
    )
    shadow_share: float = Field(default=0.1, ge=0, le=1, description="The share of requests that it reads.")
    api_keys: Annotated[tuple[Key, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(),
        description="Keys, with commas between, of at least 16 characters each: requests to read must carry one of "
        "them, and those who do may switch the variant. None: anybody may read, and nobody switch.",
    )
    log: bool = Field(default=True, description="Whether a line of JSON for each request goes to stdout.")
    log_plates: bool = Field(default=False, description="Whether these lines hold the texts of the plates.")
    notice_s: float = Field(
        default=1.0, ge=0, description="Seconds between SIGTERM, when /readyz turns 503, and the closing of the port."
    )
    drain_s: Positive = Field(
        default=10,
        description="Seconds from SIGTERM to the end, LPR_NOTICE_S included; what was accepted is finished by then.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.queue < self.max_images:
            raise ValueError(f"LPR_QUEUE ({self.queue}) must be at least LPR_MAX_IMAGES ({self.max_images})")
        if self.queue_bytes < self.max_bytes:
            raise ValueError(f"LPR_QUEUE_BYTES ({self.queue_bytes}) must be at least LPR_MAX_BYTES ({self.max_bytes})")
        if self.drain_s <= self.notice_s:
            raise ValueError(f"LPR_DRAIN_S ({self.drain_s}) must be more than LPR_NOTICE_S ({self.notice_s})")
        return self


def listing() -> str:
    """Every variable with what it is for and its default."""
    paragraphs = []
    for name, field in Settings.model_fields.items():
        told = not field.default_factory and field.default not in (None, ())  # else the description tells it
        default = f" Default: {field.default}." if told else ""
        text = textwrap.fill(f"{field.description}{default}", 100, initial_indent=INDENT, subsequent_indent=INDENT)
        paragraphs.append(f"  LPR_{name.upper()}\n{text}")
    return "\n".join(paragraphs)


def faults(error: ValidationError) -> list[str]:
    """What is wrong with the variables, by their names, and nothing of their values, among which may be a key."""
    found = []
    for fault in error.errors():
        if fault["type"] == "default_factory_not_called":  # because another one is wrong
            continue
        message = fault["msg"].removeprefix("Value error, ")
        found.append(f"LPR_{str(fault['loc'][0]).upper()}: {message}" if fault["loc"] else message)
    return found


class ClientSettings(BaseSettings):
    """What the command line `lpr` takes from the environment."""

    model_config = SettingsConfigDict(env_prefix="LPR_", env_ignore_empty=True, frozen=True)

    url: str | None = Field(default=None, description="Server to read on, such as http://127.0.0.1:8000.")
    api_key: SecretStr | None = Field(default=None, description="Its API key, if it wants one.")
