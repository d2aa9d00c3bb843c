"""The options of certify, predict, evaluate and verify that are about plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certserve.smoothing.document import from_document


def settings(result: Any) -> dict[str, Any]:
    """The setting of the one outcome that was printed."""
    assert result.exit_code == 0, result.output
    setting = json.loads(result.stdout)["setting"]
    assert isinstance(setting, dict)
    return setting


@pytest.mark.parametrize(
    ("options", "plan", "radii"),
    [
        ((), "fixed", []),
        (("--target-radius", "0.25"), "target", [0.25]),
        (("--target-radius", "0.25", "--grow", "0.3,0.4"), "target", [0.25, 0.3, 0.4]),
        (("--precision", "0.05"), "looks", []),
        (("--time-budget", "60"), "looks", []),
        (("--stream",), "looks", []),
    ],
    ids=str,
)
def test_certify(cli: Any, half: Path, images: Any, options: tuple[str, ...], plan: str, radii: list[float]) -> None:
    """The options come to the plan that they name."""
    setting = settings(cli("certify", images["bright"], "--model", half, "--n", "2000", "--json", *options))
    assert (setting["plan"], setting["schedule"]["radii"]) == (plan, radii)
    assert setting["schedule"]["precision"] == (0.05 if "--precision" in options else 0.0)


@pytest.mark.parametrize(("options", "plan"), [((), "fixed-predict"), (("--anytime", "--n0", "30"), "anytime-predict")])
def test_predict(cli: Any, half: Path, images: Any, options: tuple[str, ...], plan: str) -> None:
    """--anytime, and with it --n0."""
    setting = settings(cli("predict", images["bright"], "--model", half, "--json", *options))
    assert setting["plan"] == plan
    assert setting["n0"] == (30 if options else 0)


def test_bound(cli: Any, half: Path, images: Any) -> None:
    """As the word says."""
    asked = ("certify", images["bright"], "--model", half, "--json")
    assert settings(cli(*asked, "--bound", "two-class"))["bound"] == "two-class"
    assert settings(cli(*asked))["bound"] == "binary"


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("certify", ("--grow", "0.5"), "--grow goes with --target-radius"),
        ("certify", ("--target-radius", "0.2", "--precision", "0.1"), "--precision does not go with --target-radius"),
        ("certify", ("--target-radius", "0.2", "--grow", "a,b"), "expected numbers separated by commas"),
        ("certify", ("--anytime",), "No such option"),
        ("certify", ("--bound", "ternary"), "ternary"),
        ("certify", ("--target-radius", "-1"), "plan: "),
        ("certify", ("--target-radius", "0.2", "--bound", "two-class"), "plan: a target takes the binary bound only"),
        ("certify", ("--time-budget", "0"), "time_budget: "),
        ("certify", ("--stream", "--precision", "-1"), "plan: "),
        ("predict", ("--n0", "10"), "--n0 goes with --anytime"),
        ("predict", ("--time-budget", "-1"), "time_budget: "),
        ("predict", ("--target-radius", "0.2"), "No such option"),
    ],
)
def test_what_does_not_go_together(
    cli: Any, half: Path, images: Any, one_line: Any, command: str, options: tuple[str, ...], said: str
) -> None:
    """Refused with a sentence, and nothing on standard output."""
    result = cli(command, images["bright"], "--model", half, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in one_line(result.stderr)


class TestStream:
    """Each better certificate, on standard error; the outcome on standard output."""

    def test_here_and_at_a_server(self, cli: Any, half: Path, images: Any, server: str, secret_file: Path) -> None:
        """The same certificates, and the same end, which `certify` gives without listening too."""
        asked = ("certify", images["bright"], "--n", "4000", "--stream", "--json")
        here = cli(*asked, "--model", half, "--secret-file", secret_file)
        there = cli(*asked, "--server", server)
        for result in (here, there):
            lines = [line for line in result.stderr.splitlines() if line.startswith("bright[red].png: bright, radius ")]
            assert len(lines) > 3
            assert len({line.rsplit(",", 1)[0] for line in lines}) == len(lines), "one was shown twice"
        assert _outcome(here) == _outcome(there)
        assert _outcome(here).estimation[0].total == 4_000

    def test_of_an_abstention(self, cli: Any, half: Path, images: Any) -> None:
        """It is shown, too."""
        result = cli("certify", images["edge"], "--model", half, "--stream")
        assert result.exit_code == 0
        assert "abstains" in result.stdout

    def test_of_a_bad_image(self, cli: Any, half: Path, tmp_path: Path) -> None:
        """A sentence."""
        (tmp_path / "bad.png").write_bytes(b"junk")
        result = cli("certify", tmp_path / "bad.png", "--model", half, "--stream")
        assert result.exit_code == 2
        assert "bad.png: " in result.stderr


class TestVerify:
    """`verify --secret-file`: drawn again."""

    @pytest.mark.parametrize("options", [(), ("--target-radius", "0.25"), ("--stream",)], ids=str)
    def test_holds(
        self, cli: Any, half: Path, images: Any, secret_file: Path, one_line: Any, options: tuple[str, ...]
    ) -> None:
        """And says that the votes are the same."""
        keyed = ("--model", half, "--secret-file", secret_file)
        printed = cli("certify", images["bright"], *keyed, "--n", "2000", "--json", *options).stdout
        result = cli("verify", "-", *keyed, "--image", images["bright"], stdin=printed)
        assert result.exit_code == 0, result.output
        assert "every vote and every number is the same" in one_line(result.stdout)

    @pytest.mark.parametrize("changed", ["image", "secret", "votes"])
    def test_does_not(
        self, cli: Any, half: Path, images: Any, secret_file: Path, tmp_path: Path, one_line: Any, changed: str
    ) -> None:
        """Another image, another secret, or votes that were never cast: exit code 1, with the reason."""
        keyed = ("--model", half, "--secret-file", secret_file)
        document = json.loads(cli("certify", images["bright"], *keyed, "--json").stdout)
        if changed == "votes":
            document["selection"]["counts"] = [1, 19]
        other = tmp_path / "other.hex"
        other.write_text("a5" * 32, encoding="ascii")
        other.chmod(0o600)
        secret = other if changed == "secret" else secret_file
        image = images["dark" if changed == "image" else "bright"]
        words = ("--model", half, "--secret-file", secret, "--image", image)
        result = cli("verify", "-", *words, stdin=json.dumps(document))
        assert result.exit_code == 1
        said = one_line(result.stdout)
        assert said.startswith("DOES NOT HOLD")
        assert {"image": "digest of the pixels", "secret": "commitment", "votes": "the votes"}[changed] in said

    @pytest.mark.parametrize("option", ["--secret-file", "--image"])
    def test_one_without_the_other(self, cli: Any, images: Any, secret_file: Path, option: str) -> None:
        """Neither is of any use alone."""
        value = secret_file if option == "--secret-file" else images["bright"]
        result = cli("verify", "-", option, value, stdin="{}")
        assert result.exit_code == 2
        assert "--secret-file and --image go together" in result.stderr


class TestEvaluate:
    """`evaluate certify` with a plan."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """Three images with labels."""
        path = tmp_path / "data.npz"
        images = np.stack([np.full((1, 4, 4), value, np.uint8) for value in (255, 0, 250)])
        np.savez(path, x=images, y=np.array([1, 0, 1]))
        return path

    def test_target_radius(self, cli: Any, half: Path, data: Path, tmp_path: Path) -> None:
        """Every certified radius is the target; the record names the plan, and another plan is another table."""
        table = tmp_path / "table.tsv"
        asked = ("evaluate", "certify", "--data", data, "--model", half, "-o", table, "--n", "2000")
        result = cli(*asked, "--target-radius", "0.25")
        assert result.exit_code == 0, result.output
        lines = table.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 4
        column = lines[0].split("\t").index("radius")
        assert {float(line.split("\t")[column]) for line in lines[1:]} == {0.25}
        record = json.loads((tmp_path / "table.tsv.json").read_text(encoding="utf-8"))
        assert record["plan"] == {"kind": "TargetPlan", "radius": 0.25, "grow": []}
        assert cli(*asked, "--target-radius", "0.25").exit_code == 0
        again = cli(*asked, "--target-radius", "0.3")
        assert again.exit_code != 0
        assert "was begun with another" in again.stderr

    def test_what_does_not_go_together(self, cli: Any, half: Path, data: Path, tmp_path: Path) -> None:
        """As for `certify`."""
        asked = ("evaluate", "certify", "--data", data, "--model", half, "-o", tmp_path / "table.tsv")
        assert "--grow goes with --target-radius" in cli(*asked, "--grow", "1").stderr
        assert "No such option" in cli(*asked, "--stream").stderr


def _outcome(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    return from_document({name: value for name, value in document.items() if name not in ("image", "seconds")})
