"""Types of settings: each is a pydantic type with its validation. Every error message is a sentence for an operator."""

import re
import socket
import tempfile
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, IPvAnyNetwork, SecretStr
from pydantic_settings import NoDecode

from service import host, internet

MOST_THREADS = max(64, 4 * host.available())  # of all workers together
SWITCH_BYTES: Final = 1024  # the longest content of LPR_SWITCH_FILE: a name and a word

_VARIANT = re.compile(r"[^./\\\x00-\x20\x7f][^/\\\x00-\x1f\x7f]{0,254}")  # a folder that `artifact.variants` finds
_REGION = re.compile(r"[A-Za-z]{2}")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<place>.*)", re.IGNORECASE)
_PLACE = re.compile(r"(?P<host>\[[^]]*\]|[^:]*)(:(?P<port>[1-9][0-9]{0,4}))?")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")  # of a host's name
_PORTS: Final = {"http": "80", "https": "443"}
_KEY = re.compile(r"[\x20-\x7e]{1,1024}")


@dataclass(frozen=True)
class Within:
    """A validator of numbers: from `lowest` to `highest`. `why` is the reason for these bounds."""

    lowest: float
    highest: float
    why: str

    def __call__(self, value: float) -> float:
        """Return the value. Raises ValueError."""
        if not self.lowest <= value <= self.highest:  # written so that NaN fails too
            raise ValueError(f"must be from {self}: {self.why}")
        return value

    def __str__(self) -> str:
        return f"{self.lowest:,} to {self.highest:,}"


def _split_at_commas(value: object) -> object:
    """The entries between the commas of a variable. A variable that is set has at least one entry."""
    if not isinstance(value, str):
        return value
    if not (parts := [part.strip() for part in value.split(",") if part.strip()]):
        raise ValueError("holds commas and blanks alone: name at least one, or unset it")
    return parts


def _check_key(key: SecretStr) -> SecretStr:
    if not _KEY.fullmatch(key.get_secret_value()):
        raise ValueError(
            "a key is 1 to 1,024 printable characters of ASCII, because it is sent in an HTTP header: "
            "`openssl rand -hex 16` makes one"
        )
    return key


def _check_length(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < 16:
        raise ValueError("a key needs at least 16 characters: `openssl rand -hex 16` makes one")
    return key


def _check_region(code: str) -> str:
    if not _REGION.fullmatch(code):
        raise ValueError("a country has a code of two letters after ISO 3166, such as de or cn: put commas between")
    return code.lower()


def _check_variant(name: str) -> str:
    if not _VARIANT.fullmatch(name):
        raise ValueError(
            "must be the name of a folder below LPR_ARTIFACTS, such as tvm-fast, and not a path: "
            "LPR_ARTIFACTS is the path of the folder that holds the variants"
        )
    return name


@cache
def addresses(host: str) -> tuple[str, ...]:
    """The IP addresses of a host. Raises ValueError if it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no host is called that"
        raise ValueError(
            f"is not the address or the name of a host ({reason}): 127.0.0.1 is for this machine, 0.0.0.0 for every "
            "interface"
        ) from error
    return tuple(str(address[0]) for *_, address in found)


def _check_host(host: str) -> str:
    addresses(host)
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    return all(ip_address(address.partition("%")[0]).is_loopback for address in addresses(host))


def _check_switch_file(path: Path) -> Path:
    """Check that the file can be written, and that an existing file holds what the server writes."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file: name a file, which need not exist yet")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}: make it, or name a file elsewhere")
    try:  # a switch of the variant does the same: it writes a new file beside it, which replaces it
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}."):
            pass
    except OSError as error:
        raise ValueError(f"no file can be written in {path.parent} ({error.strerror}): name one elsewhere") from error
    _check_switch(path)
    return path


def _check_switch(path: Path) -> None:
    """Check that a file that exists holds the name of a variant, and perhaps a word that tells switches apart."""
    try:
        with path.open("rb") as file:
            content = file.read(SWITCH_BYTES + 1).decode()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeError:
        content = "\0"
    name, *words = content.split(" ")
    if content and (len(content) > SWITCH_BYTES or len(words) > 1 or not _VARIANT.fullmatch(name)):
        raise ValueError(f"{path} does not hold the name of a variant, as the server writes it: remove it")


def _host_and_port(place: str) -> tuple[str, str | None] | None:
    """The host and the port of HOST or HOST:PORT, as browsers write them: a name in lower case, an address of IPv6 in
    brackets. None if it is neither."""
    if not (parts := _PLACE.fullmatch(place)) or int(parts["port"] or 1) > 65535:
        return None
    host = parts["host"].lower()
    try:
        if host.startswith("[") and "%" not in host:
            return f"[{IPv6Address(host[1:-1])}]", parts["port"]
        labels = host.split(".")
        if labels[-1].isdecimal():  # no name ends so
            return str(IPv4Address(host)), parts["port"]
    except ValueError:
        return None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return host, parts["port"]


def _check_origin(origin: str) -> str:
    """An origin as browsers send it: without the port that its scheme has anyway."""
    if origin == "*":
        return origin
    if not (parts := _ORIGIN.fullmatch(origin)) or not (found := _host_and_port(parts["place"])):
        raise ValueError(
            "an origin is what stands before the path of a page, such as https://app.example or "
            "https://app.example:8443, or *: name the scheme, the host and, unless it is the scheme's own, the port"
        )
    (host, port), scheme = found, parts["scheme"].lower()
    return f"{scheme}://{host}" if port in (None, _PORTS[scheme]) else f"{scheme}://{host}:{port}"


def _check_fetched(place: str) -> str:
    if not (found := _host_and_port(place)):
        raise ValueError(
            "name hosts such as images.example or images.example:8443, an IPv6 address in brackets, without https:// "
            "and path, and ports from 1 to 65535"
        )
    host, port = found
    if not _may_be_public(host):
        raise ValueError(
            f"{host} is not on the public internet, and images are fetched from there alone: unset it, and let what "
            "has the images send them"
        )
    return host if port is None else f"{host}:{port}"


def _may_be_public(host: str) -> bool:
    """Whether a host, as `_host_and_port` gives it, is a public address or a name that may have one.

    The DNS is not asked: it may answer later, and otherwise each time.
    """
    try:
        return internet.is_public(host.strip("[]"))
    except ValueError:  # a name
        return host.rpartition(".")[2] != "localhost"  # RFC 6761: every name that ends so is this machine


VariantName = Annotated[str, AfterValidator(_check_variant)]
Regions = Annotated[
    tuple[Annotated[str, AfterValidator(_check_region)], ...], NoDecode, BeforeValidator(_split_at_commas)
]
Host = Annotated[str, AfterValidator(_check_host)]
SwitchFile = Annotated[Path, AfterValidator(_check_switch_file)]
Proxies = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_split_at_commas)]
Key = Annotated[SecretStr, AfterValidator(_check_key)]
Keys = Annotated[tuple[Annotated[Key, AfterValidator(_check_length)], ...], NoDecode, BeforeValidator(_split_at_commas)]
Compatible = Annotated[
    tuple[Literal["plate-recognizer", "codeproject"], ...], NoDecode, BeforeValidator(_split_at_commas)
]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_check_origin)], ...], NoDecode, BeforeValidator(_split_at_commas)
]
FetchedHosts = Annotated[
    tuple[Annotated[str, AfterValidator(_check_fetched)], ...], NoDecode, BeforeValidator(_split_at_commas)
]
Threads = Annotated[
    int, AfterValidator(Within(1, MOST_THREADS, "more than four for each CPU only take memory from each other"))
]
