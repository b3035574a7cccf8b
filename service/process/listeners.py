"""Listening sockets: bind them, alone or shared among workers, and close them without a loss of connections."""

import asyncio
import os
import select
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

FILES: Final = 65_536
LONGEST_S: Final = 0.5  # for emptying the backlogs, where clients connect faster than the server accepts


class NoPort(OSError):
    """The server cannot listen where LPR_HOST and LPR_PORT say; the message is a sentence."""


def bind(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Sockets for every address of `host`, bound but not listening; raises NoPort where another server listens.

    Port 0 is a free one. Other sockets can join them on the same port (SO_REUSEPORT). Unless `shared`, the function
    first makes sure that no other socket does so already.
    """
    found: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            if not shared:
                with _socket(family, kind, protocol) as alone:
                    alone.bind((address[0], port, *address[2:]))
                    port = alone.getsockname()[1]
            found.append(_socket(family, kind, protocol))
            found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            found[-1].bind((address[0], port, *address[2:]))
    except OSError as error:
        for reserved in found:
            reserved.close()
        raise NoPort(
            f"LPR_HOST and LPR_PORT: the server cannot listen on {host} port {port}: {error.strerror}. Choose others, "
            "or stop what listens there."
        ) from error
    return found


def _socket(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


async def close(servers: Iterable[asyncio.Server]) -> None:
    """Close the listeners of the running event loop, but accept first what the kernel has connected already.

    The kernel completes connections by itself and keeps them in a backlog. Closing the listener would reset them, and
    the request that a client has sent with them would fail without an answer.
    """
    poll, ends = select.poll(), time.monotonic() + LONGEST_S
    with ExitStack() as stack:
        for server in servers:
            for listener in server.sockets:
                copy = stack.enter_context(socket.socket(fileno=os.dup(listener.fileno())))
                copy.listen(0)  # from now on the kernel keeps at most one: others try again, and are refused then
                poll.register(copy, select.POLLIN)
        while poll.poll(0) and time.monotonic() < ends:  # noqa: ASYNC110 - the event loop tells of none
            await asyncio.sleep(0)  # in which the event loop accepts all that wait
        for server in servers:
            server.close()


def raise_file_limit() -> None:
    """Allow up to FILES open files, and so connections, if the hard limit does. The usual soft limit is 1024."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
