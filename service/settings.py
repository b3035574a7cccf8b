"""Settings: environment variables with the prefix LPR_. No other module reads the environment."""

import difflib
import os
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service import bundled, host
from service.validators import (
    MOST_THREADS,
    Compatible,
    FetchedHosts,
    Host,
    Key,
    Keys,
    Origins,
    Proxies,
    Regions,
    SwitchFile,
    Threads,
    VariantName,
    Within,
    is_loopback,
)

REPOSITORY = Path(__file__).resolve().parent.parent
PREFIX: Final = "LPR_"
INDENT = 6 * " "
RENAMED: Final = {"LPR_BACKEND": "LPR_VARIANT", "LPR_MEMORY": "LPR_SWITCH_FILE"}  # old names, kept for one release


class Settings(BaseSettings):
    """The server's settings: each field is the variable LPR_<NAME>, and its description is the documentation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    variant: VariantName = Field(
        default=bundled.VARIANT, description="Name of the variant to serve: a folder below LPR_ARTIFACTS."
    )
    artifacts: Path = Field(default=bundled.artifacts(), description="Folder that holds the variants.")
    finder: VariantName | None = Field(
        default_factory=lambda others: bundled.finder(others["artifacts"]),
        description="Name of the variant that finds the plates in photographs. Empty: images are crops of one plate, "
        f"and nothing of a finder is loaded. Default: {bundled.FINDER} where LPR_ARTIFACTS holds it, "
        f"{bundled.PORTABLE} where ONNX Runtime is installed and TVM is not, else none.",
    )
    host: Host = Field(
        default="127.0.0.1", description="Address or name to listen on; 0.0.0.0 for every interface, :: for IPv6."
    )
    port: Annotated[int, AfterValidator(Within(0, 65535, "a port is a number of 16 bits"))] = Field(
        default=8000, description="Port to listen on; 0 takes a free one."
    )
    workers: Threads = Field(
        default=1,
        description="Processes that serve the port together, each with a copy of everything; the limits below are for "
        "each of them. Beyond 1, one more process starts them and replaces those that end.",
    )
    threads: Threads = Field(
        default_factory=lambda others: max(1, host.available() // others.get("workers", 1)),
        description="Inference threads of a process. Each owns one engine, so this many plates are computed at a time. "
        "Default: what the affinity mask and the cgroup limit allow, shared among the processes.",
    )
    regions: Regions = Field(
        default=(),
        description="Countries whose plates are read, by their codes of ISO 3166 with commas between, where a request "
        "names no region and no format: a text of any other country is never given. None: all that the model knows.",
    )
    max_bytes: Annotated[int, AfterValidator(Within(1, 1 << 30, "a body is held in memory"))] = Field(
        default=16 * 1024**2, description="Largest request body in bytes; beyond it: 413."
    )
    max_pixels: Annotated[int, AfterValidator(Within(1, 1 << 30, "the decoder reads no larger image"))] = Field(
        default=25_000_000,
        description="Largest image in pixels, by its header; beyond it: 413. All images of a request together may have "
        "as many, or 100 million if that is more.",
    )
    max_images: Annotated[int, AfterValidator(Within(1, 1024, "all images of a request wait for each other"))] = Field(
        default=32, description="Most images in one request; beyond it: 422."
    )
    queue: Annotated[int, AfterValidator(Within(1, 100_000, "what waits for so many is too late to be read"))] = Field(
        default=256,
        description="Places for what waits or is read: a request that comes while all are taken gets 429. A crop takes "
        "one, a photograph eight, and each megapixel one more.",
    )
    queue_bytes: Annotated[int, AfterValidator(Within(1, 1 << 36, "bodies are held in memory"))] = Field(
        default=256 * 1024**2,
        description="Most bytes of request bodies held at a time, also of those that still arrive; beyond it: 429.",
    )
    upload_s: Annotated[
        float, AfterValidator(Within(0.1, 3600, "in less nothing arrives, and in more a silent client is waited for"))
    ] = Field(
        default=30.0,
        description="Seconds for a request's head to arrive, then for its body (408), and for its answer to be taken.",
    )
    deadline_ms: Annotated[
        float, AfterValidator(Within(1, 600_000, "in less nothing is read, and after more nobody waits for the answer"))
    ] = Field(
        default=5000.0,
        description="Milliseconds that a request may wait until an inference thread begins with it; what "
        "waited longer is not read any more: 503. What has begun is finished.",
    )
    batch_wait_ms: Annotated[float, AfterValidator(Within(0, 60_000, "it is added to each answer"))] = Field(
        default=0.0,
        description="Milliseconds for which a thread that is free waits for more images to compute together with the "
        "first. At 0 it takes what waits by itself, up to the variant's largest batch. Less than LPR_DEADLINE_MS.",
    )
    api_keys: Keys = Field(
        default=(),
        description="Keys, with commas between, of at least 16 characters of ASCII each: requests to read must carry "
        "one of them. None: anybody may read.",
    )
    admin_keys: Keys = Field(
        default=(),
        description="Keys, as above, of those who may switch the variant; they may read too. None: where the server "
        "listens on the loopback alone, the keys of LPR_API_KEYS may switch, and elsewhere nobody may. So set them "
        "where a proxy on this machine lets others in.",
    )
    choice: bool = Field(
        default_factory=lambda others: bool(others["api_keys"]) or is_loopback(others["host"]),
        description="Whether a request may choose another installed variant; it is loaded beside the active one then. "
        "Default: whether LPR_API_KEYS holds keys or the server listens on the loopback alone.",
    )
    switch_file: SwitchFile | None = Field(
        default=None,
        description="A file that keeps the variant that the server was switched to: after a restart it goes before "
        "LPR_VARIANT, and all processes that share the file switch together.",
    )
    shadow: VariantName | None = Field(
        default=None, description="A variant that reads part of the traffic too, to be compared; none by default."
    )
    shadow_share: Annotated[float, AfterValidator(Within(0, 1, "1 is all requests"))] = Field(
        default=0.1, description="The share of requests that it reads."
    )
    compatible: Compatible = Field(
        default=(),
        description="Interfaces of other products that are served too, with commas between: plate-recognizer (POST "
        "/v1/plate-reader/) and codeproject (POST /v1/vision/alpr). None by default.",
    )
    origins: Origins = Field(
        default=(),
        description="Origins of web pages, with commas between, whose scripts may ask this server (CORS), such as "
        "https://app.example; * for all. None: only its own page.",
    )
    fetch: FetchedHosts = Field(
        default=(),
        description="Hosts, with commas between, from which the server fetches images that a request names by their "
        "address, such as images.example or images.example:8443. Addresses of private networks are refused whatever "
        "the name. None: it fetches nothing.",
    )
    proxies: Proxies = Field(
        default=(),
        description="Addresses or networks, with commas between, of the proxies whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed. None: the client in the log is whoever opened the connection.",
    )
    log: bool = Field(default=True, description="Whether a line of JSON for each request goes to stdout.")
    log_plates: bool = Field(default=False, description="Whether these lines hold the texts of the plates.")
    notice_s: Annotated[float, AfterValidator(Within(0, 3600, "whoever stops the server waits for it"))] = Field(
        default=1.0, description="Seconds between SIGTERM, when /readyz turns 503, and the closing of the port."
    )
    drain_s: Annotated[int, AfterValidator(Within(1, 3600, "whoever stops the server waits for it"))] = Field(
        default=10,
        description="Seconds from SIGTERM to the end, LPR_NOTICE_S included; what was accepted is finished by then.",
    )

    @model_validator(mode="before")
    @classmethod
    def _check_variables(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Check what no field can check: unknown names, old names, and values that are blank."""
        if unknown := [*_unknown(os.environ)]:
            raise ValueError("\n".join(unknown))
        given = _with_old_names(given)
        if _set(f"{PREFIX}FINDER") == "":
            given = {"finder": None} | given
        if blank := [name for name, value in given.items() if isinstance(value, str) and value.isspace()]:
            raise ValueError(f"{PREFIX}{blank[0].upper()}: holds blanks alone: unset it, or give it a value")
        return given

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Check the settings that depend on each other."""
        if self.workers * self.threads > MOST_THREADS:
            raise ValueError(
                f"LPR_WORKERS ({self.workers}) times LPR_THREADS ({self.threads}) must be at most {MOST_THREADS}: more "
                "than four threads for each CPU only take memory from each other"
            )
        if self.batch_wait_ms >= self.deadline_ms:
            raise ValueError(
                f"LPR_BATCH_WAIT_MS ({self.batch_wait_ms}) must be less than LPR_DEADLINE_MS ({self.deadline_ms})"
            )
        if not (self.local or self.api_keys) and os.environ.get(f"{PREFIX}API_KEY"):
            raise ValueError(
                "LPR_API_KEY: it is the key that a client sends, and this server would be open to the network: set "
                "LPR_API_KEYS to the keys that it is to ask for, or unset LPR_API_KEY"
            )
        if self.queue_bytes < self.max_bytes:
            raise ValueError(f"LPR_QUEUE_BYTES ({self.queue_bytes}) must be at least LPR_MAX_BYTES ({self.max_bytes})")
        if self.drain_s <= self.notice_s:
            raise ValueError(f"LPR_DRAIN_S ({self.drain_s}) must be more than LPR_NOTICE_S ({self.notice_s})")
        return self


def listing() -> str:
    """The help text: every variable with its description, its bounds and its default."""
    paragraphs = []
    for name, field in Settings.model_fields.items():
        fixed = not field.default_factory and field.default not in (None, ())  # else the description has it
        default = f" Default: {field.default}." if fixed else ""
        bounds = "".join(f" Allowed: {check.func}." for check in field.metadata if _has_bounds(check))
        text = textwrap.fill(
            f"{field.description}{bounds}{default}", 100, initial_indent=INDENT, subsequent_indent=INDENT
        )
        paragraphs.append(f"  LPR_{name.upper()}\n{text}")
    return "\n".join(paragraphs)


def _has_bounds(check: object) -> bool:
    return isinstance(check, AfterValidator) and isinstance(check.func, Within)


def warnings() -> Iterator[str]:
    """A sentence for each setting that has its old name in the environment."""
    return (f"{old} is now called {new}: the old name works in this release only" for old, new, _ in _renamed())


def _with_old_names(given: dict[str, Any]) -> dict[str, Any]:
    """`given`, and the values of settings that have their old names; raises ValueError where both names are set."""
    both = [f"{old} is the old name of {new}, and both are set: unset {old}" for old, new, _ in _renamed() if _set(new)]
    if both:
        raise ValueError("\n".join(both))
    return {new.removeprefix(PREFIX).lower(): value for _, new, value in _renamed()} | given


def _renamed() -> Iterator[tuple[str, str, str]]:
    """The old name, the new name and the value of each setting that has its old name in the environment."""
    return ((old, new, value) for old, new in RENAMED.items() if (value := _set(old)))


def _set(variable: str) -> str | None:
    """What a variable of the environment holds, whatever the case of its name."""
    return next((value for name, value in os.environ.items() if name.upper() == variable), None)


def _unknown(names: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable with the prefix that is no setting, with the setting of the nearest name."""
    known = [
        f"{PREFIX}{field.upper()}"
        for field in (*Settings.model_fields, *ClientSettings.model_fields, *WatchSettings.model_fields)
    ]
    for name in sorted(name for name in names if name.upper().startswith(PREFIX)):
        if name.upper() not in (*known, *RENAMED):
            (nearest,) = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0)
            yield (
                f"{ascii(name[:100])[1:-1]}: there is no such setting; is {nearest} meant? "
                "`python -m service --help` lists all"
            )


def faults(error: ValidationError) -> list[str]:
    """A sentence for each variable that is wrong. It holds the name and no value, because a value may be a key."""
    found = []
    for fault in error.errors():
        if fault["type"] == "default_factory_not_called":  # because another one is wrong
            continue
        message = fault["msg"].removeprefix("Value error, ")
        found.append(f"LPR_{str(fault['loc'][0]).upper()}: {message}" if fault["loc"] else message)
    return found


class ClientSettings(BaseSettings):
    """The settings of the command line `lpr`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    url: str | None = Field(default=None, description="Server to read on, such as http://127.0.0.1:8000.")
    api_key: Key | None = Field(default=None, description="Its API key, if it wants one.")


class WatchSettings(BaseSettings):
    """The secrets of `lpr watch`: what is on the command line, others on the machine can see."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    webhook_secret: SecretStr | None = Field(
        default=None, description="Key that events to the webhook are signed with."
    )
    mqtt_password: SecretStr | None = Field(default=None, description="Password of the user at the MQTT broker.")
