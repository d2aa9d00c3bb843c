"""`certserve verify`: what certify and predict print passes, and no number in it can be raised."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Document = dict[str, Any]


@pytest.fixture(scope="module")
def printed(half: Path, images: dict[str, Path], secret_file: Path) -> dict[str, str]:
    """What `--json` printed for the bright image, by command; and the abstention of the edge."""
    from click.testing import CliRunner

    from certserve.cli import main

    def ask(command: str, image: str) -> str:
        words = [command, str(images[image]), "--model", str(half), "--secret-file", str(secret_file), "--json"]
        return CliRunner().invoke(main, words, catch_exceptions=False).stdout

    return {"certify": ask("certify", "bright"), "predict": ask("predict", "bright"), "abstain": ask("certify", "edge")}


@pytest.mark.parametrize("what", ["certify", "predict", "abstain"])
def test_what_was_printed_verifies(cli: Any, printed: dict[str, str], what: str) -> None:
    result = cli("verify", "-", stdin=printed[what])
    assert result.exit_code == 0
    assert result.stdout.startswith("holds: ")
    assert "  - " in result.stdout


def test_a_list_verifies_and_one_false_outcome_fails_it(cli: Any, printed: dict[str, str]) -> None:
    documents = [json.loads(printed[what]) for what in ("certify", "predict", "abstain")]
    assert cli("verify", "-", stdin=json.dumps(documents)).exit_code == 0
    documents[0]["radius"] *= 2
    result = cli("verify", "-", stdin=json.dumps(documents))
    assert result.exit_code == 1
    assert result.stdout.count("DOES NOT HOLD: ") == 1
    assert result.stdout.count("\nholds: ") == 2


def test_a_file_verifies(cli: Any, printed: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(printed["certify"], encoding="utf-8")
    assert cli("verify", path).exit_code == 0


def test_json_reports_what_was_checked(cli: Any, printed: dict[str, str]) -> None:
    (report,) = json.loads(cli("verify", "-", "--json", stdin=printed["certify"]).stdout)
    assert report["holds"] is True
    assert report["statement"] == json.loads(printed["certify"])["statement"]
    assert report["checked"]
    assert report["discrepancies"] == []


def _raise_radius(document: Document) -> None:
    document["radius"] *= 1 + 1e-12


def _raise_p_lower(document: Document) -> None:
    document["p_lower"] = min(document["p_lower"] * (1 + 1e-12), math.nextafter(1.0, 0.0))


def _move_vote(document: Document) -> None:
    counts = document["estimation"][0]["counts"]
    counts[0], counts[1] = counts[0] + 1, counts[1] - 1


def _add_vote(document: Document) -> None:
    document["estimation"][0]["counts"][1] += 1


def _non_finite(document: Document) -> None:
    document["estimation"][0]["counts"][1] -= 1
    document["estimation"][0]["non_finite"] += 1


def _negative(document: Document) -> None:
    counts = document["selection"]["counts"]
    counts[0], counts[1] = counts[0] - 1, counts[1] + 1


def _drop_selection(document: Document) -> None:
    document["selection"]["counts"][1] -= 1


def _other_label(document: Document) -> None:
    document["label"] = 0


def _no_label(document: Document) -> None:
    document["label"] = 2


def _setting(name: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["setting"][name] = value

    return change


def _field(name: str, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document[name] = value

    return change


@pytest.mark.parametrize(
    ("tamper", "claim"),
    [
        (_raise_radius, "the radius"),
        (_field("radius", 0.0), "the radius"),
        (_field("radius", -1.0), "the radius"),
        (_raise_p_lower, "p_lower"),
        (_field("p_lower", 0.5), "p_lower"),
        (_move_vote, "p_lower"),
        (_add_vote, "estimation votes"),
        (_non_finite, "p_lower"),
        (_negative, "negative"),
        (_drop_selection, "selection votes"),
        (_other_label, "label"),
        (_no_label, "class 2"),
        (_field("norm", "Linf"), "norm"),
        (_setting("alpha", 0.0005), "p_lower"),
        (_setting("sigma", 0.2), "radius"),
        (_setting("sigma", 0.5), "d * eps"),
        (_setting("n", 501), "looks"),
        (_setting("n0", 21), "selection votes"),
        (_setting("looks", [500, 500]), "looks"),
        (_setting("plan", "sequential"), "plan"),
        (_setting("arithmetic_error", 0.01), "p_lower"),
    ],
)
def test_a_changed_certificate_fails_and_says_which_claim(
    cli: Any, one_line: Any, printed: dict[str, str], tamper: Callable[[Document], None], claim: str
) -> None:
    document = json.loads(printed["certify"])
    before = copy.deepcopy(document)
    tamper(document)
    assert document != before
    result = cli("verify", "-", stdin=json.dumps(document))
    assert result.exit_code == 1
    assert result.stdout.startswith("DOES NOT HOLD: ")
    (report,) = json.loads(cli("verify", "-", "--json", stdin=json.dumps(document)).stdout)
    assert report["holds"] is False
    assert any(claim in discrepancy for discrepancy in report["discrepancies"]), report["discrepancies"]
    assert one_line(report["discrepancies"][0]) in one_line(result.stdout)


@pytest.mark.parametrize(
    ("name", "value", "claim"),
    [
        ("p_value", 1e-300, "p-value"),
        ("label", 0, "label"),
        ("label", 7, "class 7"),
        ("votes", {"counts": [240, 260], "non_finite": 0}, "lead"),
        ("votes", {"counts": [0, 501], "non_finite": 0}, "votes sum"),
    ],
)
def test_a_changed_prediction_fails(cli: Any, printed: dict[str, str], name: str, value: Any, claim: str) -> None:
    document = {**json.loads(printed["predict"]), name: value}
    result = cli("verify", "-", "--json", stdin=json.dumps(document))
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)
    assert any(claim in discrepancy for discrepancy in report["discrepancies"]), report["discrepancies"]


def test_the_printed_statement_is_not_believed(cli: Any, one_line: Any, printed: dict[str, str]) -> None:
    """People read the sentence: another one than the numbers carry, even by a digit, does not hold."""
    document = {**json.loads(printed["certify"]), "statement": "Everything is safe."}
    result = cli("verify", "-", stdin=json.dumps(document))
    assert result.exit_code == 1
    assert "Everything is safe" not in one_line(result.stdout)
    assert "the statement in the file is not that of its numbers" in one_line(result.stdout)
    del document["statement"]
    assert cli("verify", "-", stdin=json.dumps(document)).exit_code == 0


def test_names_are_not_markup(cli: Any, one_line: Any, printed: dict[str, str]) -> None:
    document = {**json.loads(printed["certify"]), "label_name": "[/b] [red]cat"}
    del document["statement"]
    result = cli("verify", "-", stdin=json.dumps(document))
    assert result.exit_code == 0
    assert "gets the label '[/b] [red]cat' from" in one_line(result.stdout)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "{",
        '{"kind": "certificate"',
        "[]",
        "[1]",
        "{}",
        "null",
        '"certificate"',
        '{"kind": "certificate"}',
        '{"kind": "proof"}',
        "[" * 100_000,
        "9" * 5000,
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_outcome_is_one_sentence(cli: Any, only_sentence: Any, text: str | bytes) -> None:
    said = only_sentence(cli("verify", "-", stdin=text), 1)
    assert "expected" in said or "missing fields" in said


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "1" + "0" * 400, '"0.5"', "true", "null"])
@pytest.mark.parametrize("name", ["radius", "p_lower"])
def test_a_number_that_is_none_is_one_sentence(
    cli: Any, only_sentence: Any, printed: dict[str, str], name: str, number: str
) -> None:
    document = {**json.loads(printed["certify"]), name: "@"}
    only_sentence(cli("verify", "-", stdin=json.dumps(document).replace('"@"', number)), 1)


@pytest.mark.parametrize("name", ["radius", "setting", "estimation", "label"])
def test_a_missing_or_unknown_field_is_named(cli: Any, only_sentence: Any, printed: dict[str, str], name: str) -> None:
    document = json.loads(printed["certify"])
    assert "'surplus'" in only_sentence(cli("verify", "-", stdin=json.dumps({**document, "surplus": 1})), 1)
    del document[name]
    assert repr(name) in only_sentence(cli("verify", "-", stdin=json.dumps(document)), 1)


def test_a_real_process_reads_a_real_pipe_and_loads_no_runtime(printed: dict[str, str]) -> None:
    program = (
        "import sys\n"
        "from certserve.cli import main\n"
        "main(['verify', '-'], standalone_mode=False)\n"
        "assert not {'torch', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=printed["certify"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("holds: ")
