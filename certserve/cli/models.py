"""`certserve models`: what there is to ask."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from certserve.cli.ask import connection_options
from certserve.cli.output import fails_in_one_sentence, json_option, print_json, stdout

__all__ = ["models"]


@click.command()
@connection_options
@json_option
@fails_in_one_sentence
def models(server: str | None, token_file: str | None, root_certificates: str | None, as_json: bool) -> None:
    """The packaged models, or those of a server.

    \b
    Example: certserve models --server localhost:8700
    """
    if server:
        from certserve.client import Client

        token = Path(token_file).read_text(encoding="ascii").strip() if token_file else None
        with Client(server, root_certificates=root_certificates, token=token) as client:
            rows = [{**asdict(info), "public_key": _base64(info.public_key)} for info in client.list_models()]
    elif token_file or root_certificates:
        raise click.UsageError("--token-file and --root-certificates go with --server.")
    else:
        rows = _packaged()
    if as_json:
        print_json(rows)
        return
    table = Table(header_style="bold")
    for heading in ("name", "input", "classes", "sigmas", "n0", "n", "alpha", "detectors", "description"):
        table.add_column(heading)
    for row in rows:
        defaults = row["defaults"]
        table.add_row(
            escape(row["name"]),
            f"{'x'.join(str(length) for length in row['shape'])} {row['colour']}",
            str(len(row["labels"])),
            ", ".join(f"{sigma:g}" for sigma in row["sigmas"]),
            str(defaults["n0"]),
            str(defaults["n"]),
            str(defaults["alpha"]),
            _detectors(row["magnet"]),
            escape(row["description"]),
        )
    stdout().print(table)


def _detectors(magnet: dict[str, Any] | None) -> str:
    """How many there are, and their nominal false-positive rate together."""
    return "none" if magnet is None else f"{len(magnet['detectors'])}, rate {magnet['rate']:g}"


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _packaged() -> list[dict[str, Any]]:
    from certserve import bundle, zoo
    from certserve.endpoints.models import magnet_info

    return [
        {
            "name": found.name,
            "version": found.version,
            "description": found.description,
            "labels": list(found.labels),
            "shape": list(found.shape),
            "colour": found.colour,
            "sigmas": list(found.sigmas),
            "defaults": asdict(found.defaults),
            "magnet": asdict(magnet) if (magnet := magnet_info(found)) is not None else None,
        }
        for found in (bundle.read(zoo.path_of(name)) for name in zoo.packaged())
    ]
