"""`certserve serve`: the gRPC server."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import click

from certserve.cli.output import fails_in_one_sentence, json_option, print_json

__all__ = ["serve"]

_SECURITY = ("tls_certificate", "tls_key", "token_file", "signing_key_file", "allow_insecure", "trust")
_FILE = click.Path(exists=True, dir_okay=False)


@click.command()
@click.option("--model", "models", multiple=True, help="A bundle's directory or a packaged model's name; repeatable.")
@click.option("--config", type=_FILE, envvar="CERTSERVE_CONFIG", show_envvar=True, help="A TOML file.")
@click.option("--address", envvar="CERTSERVE_ADDRESS", show_envvar=True, help="HOST:PORT; default 127.0.0.1:8700.")
@click.option("--tls-certificate", type=_FILE, help="PEM file of the server's certificate chain.")
@click.option("--tls-key", type=_FILE, help="PEM file of its private key.")
@click.option("--token-file", type=_FILE, help="A file with the bearer token that callers must send.")
@click.option("--signing-key-file", type=_FILE, help="PEM file of the Ed25519 key that signs every answer.")
@click.option("--secret-file", type=_FILE, help="64 hex digits that key the noise; default: fresh at every start.")
@click.option("--allow-insecure", is_flag=True, default=None, help="Let other machines in without TLS and a token.")
@click.option("--execution", help="Which of the bundles' executions, by name; default: see `certserve doctor`.")
@click.option("--isolate", is_flag=True, default=None, help="Run each model in a process of its own.")
@click.option("--reform", is_flag=True, default=None, help="Put each bundle's reformer before its classifier.")
@click.option("--surrogate", is_flag=True, default=None, help="Hand the models' weights to whoever may call.")
@click.option("--trust", is_flag=True, default=None, help="Allow bundles whose file can run code (torch.export).")
@json_option
@fails_in_one_sentence
def serve(models: tuple[str, ...], config: str | None, address: str | None, as_json: bool, **options: Any) -> None:
    """Serve models over gRPC until SIGTERM; without a model, the packaged one.

    SIGHUP makes it read the secret file again (see `certserve secret rotate`): questions asked from then on are drawn
    with what it holds, those in progress with what they began with.

    \b
    Example: certserve serve --model my-bundle --address 127.0.0.1:8700
    """
    from certserve.endpoints.models import LoadedModel
    from certserve.serving import config as configs
    from certserve.serving import server
    from certserve.zoo import path_of

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, port = _split(address)
    overrides = {
        "server": {"host": host, "port": port, **{name: options[name] for name in ("execution", "isolate", "reform")}},
        "security": {name: options[name] for name in _SECURITY},
        "noise": {"secret_file": options["secret_file"]},
        "robustify": {"surrogate": options["surrogate"]},
    }
    settings = configs.read_config(Path(config) if config else None, overrides, models)
    if settings.security.missing and not settings.server.is_loopback:
        missing = " and ".join(settings.security.missing)
        click.echo(f"certserve: warning: other machines can reach this server without {missing}.", err=True)
    how: dict[str, Any] = {
        "execution": settings.server.execution or None,
        "isolate": settings.server.isolate,
        "reform": settings.server.reform,
        "ready": True,
        "trust": settings.security.trust,
    }
    loaded = [LoadedModel.read(path_of(name), **how) for name in settings.models or (None,)]
    secret = server.read_secret(settings)

    def on_ready(running: server.RunningServer) -> None:
        names = [model.bundle.name for model in loaded]
        if as_json:
            print_json({"host": settings.server.host, "port": running.port, "models": names, "pid": os.getpid()})
        else:
            click.echo(f"certserve: serving {', '.join(names)} on {settings.server.host}:{running.port}")

    asyncio.run(server.serve(settings, loaded, secret, on_ready))


def _split(address: str | None) -> tuple[str | None, int | None]:
    if address is None:
        return None, None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise click.BadParameter(f"expected HOST:PORT, not {address!r}", param_hint="--address")
    return host, int(port)
