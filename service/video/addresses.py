"""Addresses of the command line: taken apart before anything is started, or refused."""

from urllib.parse import SplitResult, urlsplit

from service.errors import BadParameter


def split(address: str, usage: str) -> SplitResult:
    """The parts of an address, whose `hostname` and `port` can be read.

    Raises BadParameter with `usage`, and without the address, which may hold a password, where the address cannot be
    taken apart, or where no computer can have such a name or port.
    """
    try:
        parts = urlsplit(address)
        usable = parts.port != 0
        (parts.hostname or "").encode("idna")  # as the resolver does: a label that is empty or too long is no name
    except ValueError as error:
        raise BadParameter(usage) from error
    if not usable:
        raise BadParameter(usage)
    return parts
