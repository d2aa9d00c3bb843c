"""The command as a whole: help, version, what it imports, and wrong uses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import click
import pytest

import certserve
from certserve.cli import main

RUNTIMES = {"torch", "onnxruntime", "openvino"}


def commands() -> dict[tuple[str, ...], click.Command]:
    """Every command that does something, by the words that call it."""
    found: dict[tuple[str, ...], click.Command] = {}
    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), main)]
    while waiting:
        words, command = waiting.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                waiting.append(((*words, name), child))
        else:
            found[words] = command
    return found


def test_there_are_the_commands_of_the_manual() -> None:
    assert set(commands()) == {
        ("serve",),
        ("demo",),
        ("certify",),
        ("predict",),
        ("verify",),
        ("detect",),
        ("reform",),
        ("robustify",),
        ("secret", "new"),
        ("secret", "rotate"),
        ("secret", "commitment"),
        ("signing-key", "new"),
        ("signing-key", "public"),
        ("evaluate", "certify"),
        ("evaluate", "coverage"),
        ("evaluate", "magnet"),
        ("evaluate", "preempt"),
        ("bundle", "create"),
        ("bundle", "fetch"),
        ("models",),
        ("train", "classifier"),
        ("train", "magnet"),
        ("quantize",),
        ("tune",),
        ("doctor",),
    }


@pytest.mark.parametrize("words", sorted(commands()), ids=" ".join)
def test_help_has_an_example_of_this_very_command(cli: Any, words: tuple[str, ...]) -> None:
    result = cli(*words, "--help")
    assert result.exit_code == 0
    assert f"Example: certserve {' '.join(words)}" in result.stdout or (
        "Example: certserve" in result.stdout and f"certserve {' '.join(words)}" in result.stdout.split("Example:")[1]
    )


@pytest.mark.parametrize("words", sorted(commands()), ids=" ".join)
def test_every_option_is_explained(words: tuple[str, ...]) -> None:
    options = [option for option in commands()[words].params if isinstance(option, click.Option)]
    assert options
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("words", sorted(commands()), ids=" ".join)
def test_every_command_has_json(words: tuple[str, ...]) -> None:
    assert any("--json" in option.opts for option in commands()[words].params)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_lists_the_commands_and_where_to_start(cli: Any, flag: str) -> None:
    result = cli(flag)
    assert result.exit_code == 0
    assert "certserve demo" in result.stdout
    for words in commands():
        assert f"\n  {words[0]} " in result.stdout


def test_version(cli: Any) -> None:
    assert cli("--version").stdout == f"certserve, version {certserve.__version__}\n"


@pytest.mark.parametrize("words", [(), ("certify",), ("serve",), ("bundle", "create")], ids=" ".join)
def test_help_loads_no_runtime(words: tuple[str, ...]) -> None:
    program = (
        "import sys\n"
        "from certserve.cli import main\n"
        f"main({[*words, '--help']!r}, standalone_mode=False)\n"
        "print('loaded', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "certserve" in loaded
    assert not loaded & RUNTIMES


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["certify"], "Missing argument 'IMAGES...'"),
        (["certify", "no-such-image.png"], "'no-such-image.png' does not exist"),
        (["predict", __file__, "--n0", "3"], "--n0"),
        (["predict", __file__, "--fit", "stretch"], "'stretch' is not one of 'exact', 'resize-crop'"),
        (["certify", __file__, "--n", "many"], "'many' is not a valid integer"),
        (["verify", "no-such-file.json"], "no-such-file.json"),
        (["bundle", "create", "no-such.onnx", "-o", "x", "--sigma", "1", "--labels", "a,b"], "does not exist"),
        (["serve", "--config", "no-such.toml"], "does not exist"),
        (["serve", "--address", "8700"], "expected HOST:PORT, not '8700'"),
        (["serve", "--address", ":8700"], "expected HOST:PORT, not ':8700'"),
        (["serve", "--address", "localhost:http"], "expected HOST:PORT, not 'localhost:http'"),
    ],
)
def test_a_wrong_use_is_exit_code_2(cli: Any, arguments: list[str], complaint: str) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stdout == ""
