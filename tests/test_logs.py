"""Logs: a reader that is stuck, streams that are closed or full, and text that would forge a line."""

import logging
import os
import subprocess
import sys
import threading
import time

import httpx
import pytest

from model_builder.measure.load.servers import free_port
from service import logs
from service.settings import REPOSITORY
from tests.support.artifacts import PUBLISHED
from tests.support.processes import COMMAND, VARIANT, answers, environment
from tests.support.samples import TEXT, read


def wait_for(url: str) -> None:
    """Wait until a server answers, for a minute at most: several processes start slowly on a busy machine."""
    deadline = time.monotonic() + 60
    while not answers(url):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_log_that_nobody_reads_delays_nothing_and_then_has_its_oldest_lines(monkeypatch):
    """More lines than a pipe and the backlog hold together."""
    monkeypatch.setattr(logs, "LAST_S", 60)  # it ends as soon as all is read
    read, write = os.pipe()
    log = logs.Writer(write)
    lines = [b"%0100d" % number for number in range(2 * logs.BACKLOG // 100)]
    for line in lines:
        log.put(line)
    taken: list[str] = []
    reader = threading.Thread(target=lambda: taken.extend(open(read)))  # noqa: SIM115
    reader.start()
    log.close()
    os.close(write)
    reader.join()
    assert not log.stuck
    assert logs.BACKLOG // 100 <= len(taken) < len(lines)
    assert [line.strip().encode() for line in taken[:9]] == lines[:9]


def test_a_log_that_cannot_be_written_fails_nothing():
    read, write = os.pipe()
    os.close(read)
    for target in (os.open("/dev/full", os.O_WRONLY), write):
        log = logs.Writer(target)
        log.put(b"x")
        log.close()
        assert not log.stuck
        os.close(target)


def test_a_descriptor_that_does_not_block_gets_every_line(monkeypatch):
    monkeypatch.setattr(logs, "LAST_S", 60)
    read, write = os.pipe()
    os.set_blocking(write, False)
    log = logs.Writer(write)
    for _ in range(3000):
        log.put(b"x" * 99)
    taken: list[str] = []
    reader = threading.Thread(target=lambda: taken.extend(open(read)))  # noqa: SIM115
    reader.start()
    log.close()
    os.close(write)
    reader.join()
    assert len(taken) == 3000


def test_a_reader_that_is_stuck_does_not_keep_the_process_from_ending(monkeypatch):
    monkeypatch.setattr(logs, "LAST_S", 0.01)
    read, write = os.pipe()
    log = logs.Writer(write)
    for _ in range(1000):
        log.put(b"x" * 99)
    log.close()
    assert log.stuck
    os.close(read)  # which frees its thread; the other end stays open, because that may still write to it


def test_only_the_first_line_of_a_record_begins_in_the_first_column():
    read, write = os.pipe()
    with pytest.MonkeyPatch.context() as patch, logs.recorded(write):
        # pytest-xdist cannot send what pytest's own handlers would keep: half a surrogate pair.
        patch.setattr(logging.getLogger(), "handlers", logging.getLogger().handlers[-1:])
        logging.getLogger("x").warning("%s", "a\nERROR:    forged\r\x1b[31m\x9b\u2028\u202e皖\udc80")
        try:
            raise ValueError("b\nINFO:     forged")
        except ValueError:
            logging.getLogger("x").exception("it failed")
        logging.getLogger("x").warning("c" * 10**6)
    os.close(write)
    text = os.read(read, 65536).decode()
    os.close(read)
    lines = text.splitlines()
    assert lines[:2] == ["WARNING:  a", "    | ERROR:    forged"]
    assert lines[3:5] == ["    | \\u001b[31m\\u009b", "    | \\u202e皖\\udc80"] or "\\u202e皖\\udc80" in text
    assert "    | INFO:     forged" in lines
    assert all(line.isprintable() for line in lines)
    assert sum(not line.startswith("    | ") for line in lines) == 3
    assert len(text) < 2 * logs.LONGEST


LIBRARY = """
import os, sys
from service import logs
with logs.guarded() as out:
    os.write(2, b"a library\\nERROR:    forged \\x1b[31m\\xff\\n")
    os.write(1, b"on standard output\\n")
    os.write(2, b"libpng error: IDAT: CRC error\\nCorrupt JPEG data: bad Huffman code\\n")
    print("a print")
    for _ in range(10_000):  # far more than a pipe holds: it is lost rather than waited for
        try:
            os.write(2, b"x" * 4096)
        except BlockingIOError:
            pass
    os.write(out, b"the access log\\n")
print("the end")
"""


def test_what_libraries_write_becomes_records_and_standard_output_is_the_access_log_alone():
    done = subprocess.run([sys.executable, "-c", LIBRARY], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout == "the access log\nthe end\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "WARNING:  stderr: a library"
    assert lines[1] == "    | ERROR:    forged \\u001b[31m\\xff"
    assert "IDAT" not in done.stderr, "what a decoder says of an image is in its answer"
    assert "Huffman" not in done.stderr
    assert [x for x in lines if not (x.startswith(("WARNING:  stderr: ", "    | ")) and x.isprintable())] == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reader_that_is_stuck_stops_nothing(workers):
    """Standard output and error are a pipe that is full before the server starts, and that nobody reads."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    while True:
        try:
            os.write(write_end, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(write_end, True)
    port = str(free_port())
    env = environment(PUBLISHED, VARIANT=VARIANT, PORT=port, NOTICE_S="0", WORKERS=workers)
    process = subprocess.Popen(COMMAND, cwd=REPOSITORY, env=env, stdout=write_end, stderr=write_end)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url)
        with httpx.Client(base_url=url, timeout=60) as client:
            for _ in range(50):
                assert client.get("/nothing").status_code == 404
        assert read(url) == TEXT
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
        os.close(write_end)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-", ">/dev/full 2>/dev/full"])
def test_closed_or_full_streams_do_no_harm(workers, closed):
    port = str(free_port())
    env = environment(PUBLISHED, VARIANT=VARIANT, PORT=port, NOTICE_S="0", WORKERS=workers)
    command = ["sh", "-c", f'exec "$0" "$@" {closed}', *COMMAND]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=env)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url)
        assert read(url) == TEXT
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_refusal_is_still_told_where_standard_output_is_closed():
    env = environment(PUBLISHED, VARIANT="nonsense")
    command = ["sh", "-c", 'exec "$0" "$@" >&- <&-', *COMMAND]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
