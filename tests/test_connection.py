"""Connections as the event loop takes them in."""

import asyncio
import socket

import pytest
import uvloop

from service.connection import take_in_more

CLIENTS = 100


class Guest(asyncio.Protocol):
    """Counts those that came."""

    came = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Guest.came += 1
        transport.close()


async def turns() -> int:
    """How many turns of the event loop it takes until CLIENTS that came at once are taken in."""
    Guest.came = 0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Guest, "127.0.0.1", 0, backlog=CLIENTS)
    servers = [server, *await take_in_more(server, Guest)]
    port = server.sockets[0].getsockname()[1]
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]  # the kernel lets them wait
    counted = 0
    while Guest.came < CLIENTS:
        await asyncio.sleep(0)
        counted += 1
        assert counted < 100 * CLIENTS
    for each in servers:
        each.close()
    for client in clients:
        client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    return counted


@pytest.mark.parametrize("make", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_clients_that_come_at_once_are_taken_in_within_few_turns(make):
    with asyncio.Runner(loop_factory=make) as runner:
        assert runner.run(turns()) <= CLIENTS / 5
