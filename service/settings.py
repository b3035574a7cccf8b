"""All that can be configured, from environment variables with the prefix LPR_; nothing else reads the environment."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import cpu

REPOSITORY = Path(__file__).resolve().parent.parent

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

    model_config = SettingsConfigDict(env_prefix="LPR_", frozen=True, extra="forbid")

    backend: str = Field(default="tvm", description="Name of the variant to serve: a folder below LPR_ARTIFACTS.")
    artifacts: Path = Field(default=REPOSITORY / "artifacts", description="Folder that holds the variants.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    threads: Positive = Field(
        default_factory=cpu.available,
        description="CPU threads, each with a network of its own: so many plates are computed at a time. "
        "Default: what the affinity mask and the cgroup limit allow.",
    )
    max_bytes: Positive = Field(default=16 * 1024**2, description="Largest request body in bytes; beyond it: 413.")
    max_pixels: Positive = Field(
        default=25_000_000, description="Largest image in pixels, by its header; beyond it: 413."
    )
    max_images: Positive = Field(default=32, description="Most images in one request; beyond it: 422.")
    queue: Positive = Field(default=256, description="Most images waiting or being read at a time; beyond it: 429.")
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
        default=10, description="Seconds that accepted requests get to finish once the port is closed."
    )

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.queue < self.max_images:
            raise ValueError(f"LPR_QUEUE ({self.queue}) must be at least LPR_MAX_IMAGES ({self.max_images})")
        return self


class ClientSettings(BaseSettings):
    """What the command line `lpr` takes from the environment."""

    model_config = SettingsConfigDict(env_prefix="LPR_", frozen=True)

    url: str | None = Field(default=None, description="Server to read on, such as http://127.0.0.1:8000.")
    api_key: SecretStr | None = Field(default=None, description="Its API key, if it wants one.")
