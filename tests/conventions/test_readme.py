"""The blocks of the README and of the results, and the examples of `--help`, work as they stand."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from certserve.cli import main
from certserve.serving.config import Config, read_config

_ROOT = Path(__file__).resolve().parents[2]
_DOCUMENTS = {name: (_ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "benchmarks/RESULTS.md")}
_SHELL = {"sh", "console", "bash", "shell"}
_FILES = (".png", ".jpg", ".json", ".onnx", ".txt", ".csv", ".toml", ".pem", ".hex", ".npz", ".tsv")
_FOLDERS = ("fashion-mnist", "mnist", "mnist-little-noise", "photos", "cifar10", "my-bundle", "made")


class Block(NamedTuple):
    """A fenced block: its language, the words after it, the document and line where it stands, and its text."""

    language: str
    info: tuple[str, ...]
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.language}:{self.place}"


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a Markdown document."""
    found: list[Block] = []
    start: int | None = None
    lines = _DOCUMENTS[document].splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            language, *info = [*lines[start].removeprefix("```").split(), ""][: len(lines[start].split()) or 1]
            place = f"{document}:{start + 1}"
            found.append(Block(language, tuple(info), place, "\n".join(lines[start + 1 : number]) + "\n"))
            start = None
    assert start is None, f"{document}:{start}: this block has no end"
    return found


def commands(text: str) -> list[str]:
    """The `certserve` calls in shell lines: prompts, comments, redirections and what is piped to are cut."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:\||&&)\s", re.sub(r"(^|\s)#.*", "", line)):
            part = re.sub(r"\s\d?>>?\s*\S+.*", "", part.strip().removeprefix("$ ").strip())
            if re.match(r"(\S*/)?certserve\s", part + " "):
                found.append(part)
    return found


def _found(word: str, folder: Path) -> list[str]:
    """A word as a shell in a clone gives it, except that files of the reader's own are empty ones in `folder`."""
    if word.startswith("certserve/"):
        return [str(path) for path in sorted(_ROOT.glob(word))]
    if word.endswith(_FILES):
        (folder / word).parent.mkdir(exist_ok=True)
        (folder / word).write_text("")
    if word in _FOLDERS:
        (folder / word).mkdir(exist_ok=True)
    return [word]


def parse(command: str, folder: Path) -> None:
    """Read a `certserve` call as click does, in `folder`, the current directory.

    Raises:
        click.UsageError: there is no such command or option, or a value is not one of those allowed.
    """
    words = [found for word in shlex.split(command)[1:] for found in _found(word, folder)]
    node: click.Command = main
    parent: click.Context | None = None
    while isinstance(node, click.Group) and words and not words[0].startswith("-"):
        parent = click.Context(node, parent, info_name=words[0])
        child = node.get_command(parent, words[0])
        if child is None:
            raise click.UsageError(f"no command {words[0]!r}")
        node, words = child, words[1:]
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version
        node.make_context(node.name, words, parent).close()


_BLOCKS = [block for document in _DOCUMENTS for block in blocks(document)]
_COMMANDS = [command for block in _BLOCKS if block.language in _SHELL for command in commands(block.text)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", _COMMANDS)
def test_a_command_parses(command: str, folder: Path) -> None:
    parse(command, folder)


@pytest.mark.parametrize("words", [["serve"], ["demo"], ["certify"], ["predict"], ["verify"],
                                   ["detect"], ["reform"], ["robustify"], ["bundle", "create"], ["bundle", "fetch"],
                                   ["models"], ["train", "classifier"], ["train", "magnet"], ["quantize"], ["tune"],
                                   ["doctor"],
                                   ["evaluate", "certify"], ["evaluate", "coverage"], ["evaluate", "magnet"],
                                   ["evaluate", "preempt"],
                                   ["secret"], ["secret", "new"], ["secret", "rotate"], ["secret", "commitment"],
                                   ["signing-key"],
                                   ["signing-key", "new"], ["signing-key", "public"]],
                         ids=" ".join)  # fmt: skip
def test_the_example_of_the_help_parses(words: list[str], folder: Path) -> None:
    node: click.Command = main
    for word in words:
        assert isinstance(node, click.Group)
        child = node.get_command(click.Context(node), word)
        assert child is not None
        node = child
    assert node.help is not None
    example = node.help.partition("Example:")[2]
    first, *more = [line.strip() for line in example.splitlines() if line.strip()]
    joined = "\n".join([first, *more]).replace("\n-", " -")
    assert commands(joined)
    for command in commands(joined):
        parse(command, folder)


@pytest.mark.parametrize(
    "command",
    [
        "certserve nonsense",
        "certserve certify a.png --nn 3",
        "certserve predict a.png --fit stretch",
        "certserve serve x",
        "certserve bundle create m.onnx --labels a,b -o out",
    ],
)
def test_a_wrong_command_does_not_parse(command: str, folder: Path) -> None:
    with pytest.raises(click.UsageError):
        parse(command, folder)


def test_the_readme_has_blocks_of_each_kind() -> None:
    assert {"python", "toml"} <= {block.language for block in _BLOCKS}
    assert len(_COMMANDS) >= 5
    assert any(command.endswith("certserve demo") for command in _COMMANDS)


@pytest.mark.parametrize("block", [b for b in _BLOCKS if b.language == "python" and "no-run" not in b.info], ids=str)
def test_a_python_block_runs(block: Block, python: Any, tmp_path: Path) -> None:
    done = python("-W", "error", "-c", block.text, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [b for b in _BLOCKS if b.language == "python"], ids=str)
def test_a_python_block_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", [b for b in _BLOCKS if b.language == "toml"], ids=str)
def test_a_configuration_is_read_and_has_every_key(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(block.text, encoding="utf-8")
    read = read_config(path, {})
    assert read == Config(models=read.models)
    document = tomllib.loads(block.text)
    for section in ("server", "security", "noise", "limits", "robustify"):
        assert set(document[section]) == set(type(getattr(read, section)).__dataclass_fields__)


@pytest.mark.parametrize("document", _DOCUMENTS)
def test_links_into_the_repository_lead_somewhere(document: str) -> None:
    here = _ROOT / document
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", _DOCUMENTS[document]) if "://" not in link]
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        there = here.parent / path if path else here
        assert there.exists(), link
        if heading:
            text = re.sub(r"^```.*?^```", "", there.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
            titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], link
