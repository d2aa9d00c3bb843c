"""`certserve evaluate coverage`: every plan by its options, as a table and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("words", "plan", "rows"),
    [
        ("--n 500", "fixed", 4),
        ("--n 500 --bound two-class --runner-up 0.001", "fixed", 4),
        ("--n 500 --looks", "looks", 4),
        ("--n 500 --precision 0.1", "looks", 4),
        ("--n 500 --target-radius 0.2", "target", 1),
        ("--n 500 --n0 10 --target-radius 0.2 --grow 0.3,0.4", "target", 3),
        ("--n 500 --predict", "fixed-predict", 5),
        ("--n 500 --n0 8 --anytime --p 0.8 --p 0.9", "anytime-predict", 2),
    ],
)
def test_a_plan(cli: Any, words: str, plan: str, rows: int) -> None:
    """Another plan than the options say, a probability above alpha, or a number that is not explained fails."""
    done = cli("evaluate", "coverage", *words.split(), "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["plan"] == plan
    assert len(document["rates"]) == rows
    assert all(0.0 <= rate["false_claim"] <= 0.001 for rate in document["rates"])
    table = cli("evaluate", "coverage", *words.split())
    assert table.exit_code == 0
    text = " ".join(table.stdout.split())
    assert f"Plan {plan}, n = 500" in text
    assert " ".join(document["false_claim"].split()) in text
    assert "promises at most alpha = 0.001" in text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--anytime --target-radius 0.2", "none of the options of certificates"),
        ("--predict --looks", "none of the options of certificates"),
        ("--looks --target-radius 0.2", "does not go with"),
        ("--grow 0.3", "goes with --target-radius"),
        ("--runner-up 0.1", "goes with --bound two-class"),
        ("--target-radius 0.2 --bound two-class", "binary bound only"),
        ("--anytime --p 0.3", "top class"),
    ],
)
def test_what_does_not_go_together(cli: Any, words: str, reason: str) -> None:
    """An option that is silently left aside fails."""
    done = cli("evaluate", "coverage", *words.split())
    assert done.exit_code != 0
    assert reason in done.stderr
