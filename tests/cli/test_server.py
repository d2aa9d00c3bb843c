"""Asking a server with `--server`, `certserve models --server`, and `certserve serve` itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_RUN = [sys.executable, "-c", "from certserve.cli import main; main(prog_name='certserve')"]


@pytest.mark.parametrize("command", ["certify", "predict"])
def test_a_server_with_the_same_secret_gives_the_same_answers(
    cli: Any, server: str, half: Path, images: Any, secret_file: Path, command: str
) -> None:
    def ask(*where: object) -> list[dict[str, Any]]:
        result = cli(command, *images.values(), "--json", *where)
        assert result.exit_code == 0, result.output
        documents: list[dict[str, Any]] = json.loads(result.stdout)
        return [{name: value for name, value in document.items() if name != "seconds"} for document in documents]

    remote = ask("--server", server)
    assert remote == ask("--model", half, "--secret-file", secret_file)
    assert remote == ask("--server", server, "--model", "half")


def test_what_a_server_answered_verifies(cli: Any, server: str, images: Any) -> None:
    printed = cli("certify", *images.values(), "--server", server, "--json").stdout
    assert cli("verify", "-", stdin=printed).exit_code == 0


def test_a_wrong_question_names_everything_that_is_wrong(
    cli: Any, server: str, images: Any, only_sentence: Any
) -> None:
    asked = ("certify", images["bright"], "--server", server, "--n", "0", "--n0", "0", "--sigma", "0.3")
    said = only_sentence(cli(*asked), 2)
    assert all(f"{field}: " in said for field in ("n", "n0", "sigma"))


def test_a_model_the_server_has_not_is_one_sentence(cli: Any, server: str, images: Any, only_sentence: Any) -> None:
    said = only_sentence(cli("certify", images["bright"], "--server", server, "--model", "other"), 1)
    assert "'other'" in said
    assert "half" in said


def test_a_server_that_is_not_there_is_one_sentence(cli: Any, images: Any, only_sentence: Any) -> None:
    for command in (["certify", images["bright"]], ["models"]):
        only_sentence(cli(*command, "--server", "127.0.0.1:1"), 1)


def test_a_secret_file_is_for_a_bundle_here(cli: Any, server: str, images: Any, secret_file: Path) -> None:
    result = cli("certify", images["bright"], "--server", server, "--secret-file", secret_file)
    assert result.exit_code == 2
    assert "--secret-file is for a bundle here" in result.stderr


@pytest.mark.parametrize(("option", "value"), [("--execution", ["float64"]), ("--trust", [])])
def test_how_a_bundle_is_run_is_for_a_bundle_here(
    cli: Any, server: str, images: Any, option: str, value: list[str]
) -> None:
    result = cli("predict", images["bright"], "--server", server, option, *value)
    assert result.exit_code == 2
    assert f"{option} is for a bundle here" in result.stderr


@pytest.mark.parametrize("option", ["--token-file", "--root-certificates"])
def test_connection_options_go_with_a_server(cli: Any, half: Path, images: Any, option: str) -> None:
    result = cli("certify", images["bright"], "--model", half, option, __file__)
    assert result.exit_code == 2
    assert "go with --server" in result.stderr


def test_the_models_of_a_server(cli: Any, server: str) -> None:
    (model,) = json.loads(cli("models", "--server", server, "--json").stdout)
    assert model["name"] == "half"
    assert model["labels"] == ["dark [/b]", "bright"]
    assert len(model["commitment"]) == 64
    table = cli("models", "--server", server)
    assert table.exit_code == 0
    assert "1x4x4 grey" in table.stdout


def test_serve_refuses_other_machines_without_tls_and_token(cli: Any, half: Path, only_sentence: Any) -> None:
    said = only_sentence(cli("serve", "--model", half, "--address", "0.0.0.0:0"), 1)
    assert "TLS" in said
    assert "token" in said
    assert "--allow-insecure" in said


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--model", "no-such-bundle"], "no-such-bundle"),
        (["--address", "localhost:99999"], "65535"),
        (["--tls-certificate", __file__], "tls_key"),
        (["--config", __file__], "test_server.py"),
    ],
)
def test_serve_says_what_is_wrong_in_one_sentence(
    cli: Any, only_sentence: Any, arguments: list[str], fragment: str
) -> None:
    assert fragment in only_sentence(cli("serve", *arguments), 1)


def test_serve_needs_trust_for_a_program(cli: Any, only_sentence: Any, program: Path, tmp_path: Path) -> None:
    """By option, or by the configuration; this program is none, as one that is opened is told."""
    assert "is a program, which can run any code" in only_sentence(cli("serve", "--model", program), 1)
    config = tmp_path / "server.toml"
    config.write_text(f"models = ['{program}']\n[security]\ntrust = false\n")
    assert "is a program, which can run any code" in only_sentence(cli("serve", "--config", config), 1)
    pytest.importorskip("torch")
    opened = [cli("serve", "--config", config, "--trust"), cli("serve", "--model", program, "--trust")]
    config.write_text(f"models = ['{program}']\n[security]\ntrust = true\n")
    for result in (*opened, cli("serve", "--config", config)):
        assert result.exit_code == 1
        assert "expected a program written by torch.export.save" in result.stderr


def test_serve_says_that_a_port_is_taken(cli: Any, server: str, half: Path, only_sentence: Any) -> None:
    assert "cannot listen on " in _sentence_of("serve", "--model", str(half), "--address", server)


def _sentence_of(*arguments: str) -> str:
    """The last line of a real process that fails with exit code 1 and no traceback."""
    done = subprocess.run([*_RUN, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("certserve: ")
    return last


@pytest.fixture(scope="module")
def insecure(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """`certserve serve --allow-insecure --json` as a process: what it printed, and its standard error as a file."""
    log = tmp_path_factory.mktemp("serve") / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*_RUN, "serve", "--model", half, "--address", "0.0.0.0:0", "--allow-insecure", "--json"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    try:
        ready, _ = json.JSONDecoder().raw_decode(_first_document(process.stdout))
        yield ready, log
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _first_document(lines: Any) -> str:
    text = ""
    for line in lines:
        text += line
        if line.rstrip() == "}":
            break
    return text


def test_serve_announces_itself_answers_and_ends_on_sigterm(
    cli: Any, insecure: tuple[dict[str, Any], Path], images: Any
) -> None:
    ready, _ = insecure
    assert ready["models"] == ["half"]
    assert ready["host"] == "0.0.0.0"
    result = cli("certify", images["bright"], "--server", f"127.0.0.1:{ready['port']}", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["label_name"] == "bright"


def test_allow_insecure_warns(insecure: tuple[dict[str, Any], Path]) -> None:
    _, log = insecure
    assert "certserve: warning: other machines can reach this server without TLS" in log.read_text()
