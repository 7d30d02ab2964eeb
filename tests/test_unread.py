"""Output that nobody reads to its end, that has nowhere to go, or finds no room."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import minilm.console
from benchmarks.attention import views
from minilm import cli
from minilm.unread import nobody_reads, written_out


def told_to(stdout, *words):
    """Exit code and standard error of a command in a process of its own, whose output waits in a buffer."""
    program = [sys.executable, "-c", "import sys; from minilm.cli import main; sys.exit(main(sys.argv[1:]))", *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(program, stdout=stdout, stderr=subprocess.PIPE, check=False, env=environment)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("words", ["--help", "fetch", "train --help", "tokenize --tokenizer byte a"])
def test_a_reader_that_leaves_ends_a_command_without_a_word(words):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:
        assert told_to(nobody, *words.split()) == (141, "")


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["fetch"], 0), (["bogus"], 2)])
def test_a_command_needs_no_standard_output(words, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)  # as `>&-` leaves it
    assert cli.main(words) == code
    assert capsys.readouterr().err.count("\n") == (code == 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_output_that_finds_no_room_is_answered_in_a_sentence():
    with open("/dev/full", "wb") as full:
        assert told_to(full, "fetch") == (
            1,
            "minilm: No space is left on the device: make room, and say the same again.\n",
        )


class Left(io.StringIO):
    """A stream whose reader has left."""

    def write(self, shown):
        raise BrokenPipeError


def test_a_measurement_goes_on_where_nobody_watches_it(monkeypatch):
    row = {"candidate": "dense", "mode": "fwd", "dtype": "float32", "status": "failed", "reason": "it does"}
    row |= {"kind": "core", "benchmark": "ops", "sizes": {"length": 8}, "environment": {"loaded": False}}
    monkeypatch.setattr(sys, "stderr", Left())
    views.progress(row)


def test_a_console_of_a_command_says_that_its_reader_has_left_and_that_of_a_run_is_silent():
    with pytest.raises(BrokenPipeError):
        minilm.console.CommandConsole(file=Left()).print("heard")
    of_a_run = minilm.console.RunConsole(file=Left())
    of_a_run.print("heard")
    assert of_a_run.quiet
    with pytest.raises(SystemExit):  # else neither would be needed
        Console(file=Left()).print("heard")


def test_what_failed_to_be_written_is_not_tried_again(tmp_path):
    """A stream whose descriptor now leads nowhere; one in memory has none, and stays as it is."""
    with open(tmp_path / "out", "w") as stream:
        nobody_reads(stream)
        stream.write("lost")
    assert (tmp_path / "out").read_text() == ""
    nobody_reads(io.StringIO())
    nobody_reads(None)


def test_what_ends_by_an_error_of_its_own_keeps_it():
    with pytest.raises(ZeroDivisionError), written_out():
        raise ZeroDivisionError
