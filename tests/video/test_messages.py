"""Messages to whoever runs the watching."""

from contextlib import suppress
from pathlib import Path

import pytest

from service.video.messages import say


def test_a_message_is_a_line_on_stderr(capsys):
    say("camera a\nb")
    assert capsys.readouterr() == ("", "lpr: camera a\\nb\n")


def test_messages_go_nowhere_where_there_is_no_stderr(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    say("it is raining")
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_a_message_for_which_there_is_no_room_is_left_out(monkeypatch):
    with suppress(OSError), open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        say("it is raining")
        monkeypatch.undo()
    assert full.closed
