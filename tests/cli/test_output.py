"""How commands fail and report progress."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from certserve import errors
from certserve.cli import output


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error as a terminal of 100 columns, and all that is written to it."""
    written = io.StringIO()

    def console(**_: object) -> Console:
        return Console(file=written, force_terminal=True, width=100)

    monkeypatch.setattr(output, "Console", console)
    return written


def _wait_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5.0
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_patience_is_two_seconds() -> None:
    assert output._PATIENCE_SECONDS == 2.0


def test_short_work_shows_no_bar(terminal: io.StringIO) -> None:
    with output.progress_bar("work", 3) as report:
        report(1, 3)
    assert terminal.getvalue() == ""


def test_long_work_shows_a_bar_after_the_patience(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_PATIENCE_SECONDS", 0.05)
    with output.progress_bar("work [/b] on", 4) as report:
        assert terminal.getvalue() == ""
        report(1, 4)
        assert _wait_for(lambda: "25 %" in terminal.getvalue())
        assert "work [/b] on" in terminal.getvalue()
        report(3, 4)
        assert _wait_for(lambda: "75 %" in terminal.getvalue())


def test_the_bar_goes_away_when_work_fails(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_PATIENCE_SECONDS", 0.01)

    def fail() -> None:
        with output.progress_bar("work", None):
            assert _wait_for(lambda: "work" in terminal.getvalue())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    end = terminal.getvalue()
    time.sleep(0.3)
    assert terminal.getvalue() == end
    assert end.endswith("\x1b[2K")  # the line erased


def test_no_bar_where_standard_error_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_PATIENCE_SECONDS", 0.01)
    with output.progress_bar("work", 2) as report:
        time.sleep(0.1)
        report(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.InvalidRequest([errors.Violation("n", "too small"), errors.Violation("sigma", "unknown")]), 2,
         "n: too small; sigma: unknown"),
        (errors.Overloaded("Too much work is waiting.", retry_after=1.0), 1, "Too much work is waiting."),
        (errors.ModelNotFound("x", ["a", "b"]), 1, "There is no model named 'x'; the models served are: a, b."),
        (FileNotFoundError(2, os.strerror(2), "x.png"), 1, "[Errno 2] No such file or directory: 'x.png'"),
        (ValueError("expected this, not that"), 1, "expected this, not that"),
        (ModuleNotFoundError(name="onnx"), 1,
         "onnx is not installed; this command needs `pip install 'certserve[server]'`."),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_an_error_is_one_sentence_and_an_exit_code(
    error: Exception, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @output.fails_in_one_sentence
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", f"certserve: {message}\n")


def test_a_bug_is_not_hidden() -> None:
    @output.fails_in_one_sentence
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()
