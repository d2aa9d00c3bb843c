"""`certserve demo` as a process: the first thing that anybody runs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from certserve import zoo

_RUN = [sys.executable, "-c", "from certserve.cli import main; main(prog_name='certserve')", "demo"]
_SECONDS = 60


def demo(*arguments: str) -> str:
    """What it printed; it must end well and in time, and say nothing on standard error."""
    done = subprocess.run([*_RUN, *arguments], capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_demo_shows_a_row_an_image_and_what_a_radius_means(one_line: Any) -> None:
    printed = demo()
    rows = [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")]
    assert rows == [sample.name for sample in zoo.samples()]
    assert len(rows) == 12
    said = one_line(printed)
    assert said.startswith("A certserve server on 127.0.0.1:")
    assert "12 real images" in said
    assert "What a radius means: Every image within L2 distance " in said
    assert "of 255 grey levels" in said
    assert "Next: certserve serve" in said


def test_its_json_verifies(cli: Any) -> None:
    printed = demo("--json", "--n", "500")
    documents = json.loads(printed)
    assert [document["image"] for document in documents] == [str(sample) for sample in zoo.samples()]
    assert all(document["setting"]["n"] == 500 for document in documents)
    assert cli("verify", "-", stdin=printed).exit_code == 0


@pytest.mark.parametrize("n", ["0", "-1", "99999999999"])
def test_a_wrong_number_of_draws_is_one_sentence(n: str) -> None:
    done = subprocess.run([*_RUN, "--n", n], capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("certserve: n: ")
    assert len(done.stderr.splitlines()) == 1
