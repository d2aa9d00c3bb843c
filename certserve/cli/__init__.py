"""The command line: thin shells around the endpoints, the server and the client.

Exit codes: 0 the answer is there (an abstention is an answer), 1 it could not be had, 2 the question was wrong.
"""

from __future__ import annotations

import importlib

import click

from certserve import __version__

__all__ = ["main"]

_COMMANDS = {
    "serve": "certserve.cli.serve:serve",
    "demo": "certserve.cli.demo:demo",
    "certify": "certserve.cli.ask:certify",
    "predict": "certserve.cli.ask:predict",
    "detect": "certserve.cli.magnet:detect",
    "reform": "certserve.cli.magnet:reform",
    "robustify": "certserve.cli.robustify:robustify",
    "verify": "certserve.cli.verify:verify",
    "secret": "certserve.cli.keys:secret",
    "signing-key": "certserve.cli.keys:signing_key",
    "bundle": "certserve.cli.bundle:bundle",
    "train": "certserve.cli.train:train",
    "quantize": "certserve.cli.quantize:quantize",
    "tune": "certserve.cli.tune:tune",
    "evaluate": "certserve.cli.evaluate:evaluate",
    "models": "certserve.cli.models:models",
    "doctor": "certserve.cli.doctor:doctor",
}


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used, so that `certserve --help` loads no runtime."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="certserve")
def main() -> None:
    """Image classification whose answers carry certified L2 radii.

    Start with `certserve demo`.
    """
