"""Outbox: a bounded queue on disk of the events that wait for each receiver.

What was accepted is on disk and stays there until its receiver has taken it, over restarts of either side. A receiver
may get an event twice where this process ends between the sending and the note of it; its `id` tells so.
"""

import itertools
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from service.errors import BadParameter, LprError, brief
from service.video.messages import say

FIRST_S, MOST_S = 1.0, 300.0  # seconds between two tries
CLOSE_S: Final = 5.0  # seconds in which what is being sent may end
LIMIT: Final = 100_000  # events that wait for one receiver

_TABLES: Final = """
create table if not exists events
    (id integer primary key, receiver text not null, body text not null, tries integer not null, due real not null);
create index if not exists next on events (receiver, due, id);
pragma user_version = 1;
"""  # the last writes always, so that a file which cannot be written is refused also where it has the tables


class NotTaken(LprError):
    """A receiver did not take an event. `alone`: it refused this one, and may well take the next."""

    def __init__(self, reason: str, alone: bool = False) -> None:
        super().__init__(reason)
        self.alone = alone


class Receiver(Protocol):
    """Takes events."""

    def send(self, body: str) -> None:
        """Send an event as JSON; return once it was taken, raise NotTaken if it was not."""

    def close(self) -> None:
        """Let go of connections; the thread that sends calls it."""


class Outbox:
    """A file of SQLite and, for each receiver, a thread that sends what waits for it, the oldest first."""

    def __init__(
        self, file: Path, receivers: Mapping[str, Receiver], limit: int = LIMIT, first_s: float = FIRST_S
    ) -> None:
        """`receivers` have names that stay the same over restarts; `limit` bounds what waits for each of them.

        Raises BadParameter where the file cannot be used.
        """
        self._file, self._receivers, self._limit, self._first_s = file, receivers, limit, first_s
        self._news, self._stopped = threading.Condition(), False
        try:
            self._connection = self._connect()
        except sqlite3.Error as error:
            raise BadParameter(
                f"The queue {file} cannot be used ({brief(error)}): name a file, or the queue of an earlier run, "
                "in a folder that is there and can be written."
            ) from error
        #: Events of earlier runs for receivers that this one does not name, by the receiver's name.
        self.left_over: Mapping[str, int] = {
            name: count
            for name, count in self._connection.execute("select receiver, count(*) from events group by receiver")
            if name not in receivers
        }
        self._threads = [
            threading.Thread(target=self._run, args=entry, name=f"outbox {entry[0]}", daemon=True)
            for entry in receivers.items()
        ]
        for thread in self._threads:
            thread.start()

    def accept(self, body: str) -> Mapping[str, str]:
        """Write an event to disk for every receiver; why it is lost to a receiver, by the receiver's name."""
        try:
            with self._news:
                full = [name for name in self._receivers if self._count(name) >= self._limit]
                rows = [(name, body, 0, 0.0) for name in self._receivers if name not in full]
                with self._connection:
                    self._connection.executemany(
                        "insert into events (receiver, body, tries, due) values (?, ?, ?, ?)", rows
                    )
                self._news.notify_all()
        except sqlite3.Error as error:  # a full disk must not end the watching
            return dict.fromkeys(self._receivers, f"its queue cannot be written ({brief(error)})")
        return dict.fromkeys(full, "its queue is full")

    def waiting(self) -> int:
        """Events that are not taken yet, of all receivers. Raises sqlite3.Error."""
        with self._news:
            return sum(self._count(name) for name in self._receivers)

    def drain(self, seconds: float) -> int:
        """Wait until all is taken, so long at most; how many still wait, as far as that can be read."""
        end = time.monotonic() + seconds
        try:
            with self._news:
                while (left := sum(map(self._count, self._receivers))) and time.monotonic() < end:
                    self._news.wait(0.2)
        except sqlite3.Error as error:
            say(f"what waits in {self._file} cannot be counted: {brief(error)}")
            return 0
        return left

    def close(self) -> None:
        """Stop sending; what waits stays on disk. A thread whose receiver holds it longer is left to itself."""
        with self._news:
            self._stopped = True
            self._news.notify_all()
        end = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._news:
            self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, check_same_thread=False, timeout=30)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")  # what is accepted is on disk
        connection.executescript(_TABLES)
        return connection

    def _count(self, name: str) -> int:
        (count,) = self._connection.execute("select count(*) from events where receiver = ?", (name,)).fetchone()
        return int(count)

    def _run(self, name: str, receiver: Receiver) -> None:
        """Send until the outbox is closed, whatever fails: nobody would start this thread again."""
        pause, failed = 0.0, 0
        while not self._stops_within(pause):
            try:
                pause, failed = self._turn(name, receiver), 0
            except Exception as error:
                pause, failed = self._told(name, error, failed), failed + 1
        receiver.close()

    def _stops_within(self, seconds: float) -> bool:
        with self._news:
            return bool(self._news.wait_for(lambda: self._stopped, seconds))

    def _told(self, name: str, error: Exception, tries: int) -> float:
        """Tell stderr of an error after so many tries before; seconds to wait before the next one."""
        wait = min(self._first_s * 2.0 ** min(tries, 20), MOST_S)
        reason = brief(error) or type(error).__name__
        say(f"{name}: {reason}; again in {wait:g} s")
        return wait

    def _turn(self, name: str, receiver: Receiver) -> float:
        """Wait for an event, a second at most, and send it; seconds to wait before the next one."""
        with self._news:
            self._news.wait_for(lambda: self._stopped or self._next(name) is not None, 1.0)
            event = None if self._stopped else self._next(name)
        return self._send(name, receiver, *event) if event else 0.0

    def _next(self, name: str) -> tuple[int, str, int] | None:
        found = self._connection.execute(
            "select id, body, tries from events where receiver = ? and due <= ? order by due, id limit 1",
            (name, time.time()),
        ).fetchone()
        return found if found is None else (found[0], found[1], found[2])

    def _send(self, name: str, receiver: Receiver, number: int, body: str, tries: int) -> float:
        """Send an event; seconds to wait before the next one."""
        try:
            receiver.send(body)
        except NotTaken as error:
            wait = self._told(name, error, tries)
            due = time.time() + wait if error.alone else 0.0
            self._write(name, "update events set tries = tries + 1, due = ? where id = ?", (due, number))
            return 0.0 if error.alone else wait
        self._write(name, "delete from events where id = ?", (number,))
        return 0.0

    def _write(self, name: str, statement: str, values: tuple[float, int] | tuple[int]) -> None:
        """Write what became of an event, until that succeeds: what was taken must not be sent again meanwhile."""
        for tries in itertools.count():
            try:
                with self._news:
                    with self._connection:
                        self._connection.execute(statement, values)
                    self._news.notify_all()
                return
            except sqlite3.Error as error:
                if self._stopped or self._stops_within(self._told(name, error, tries)):
                    return
