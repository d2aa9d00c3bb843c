"""`certserve secret` and `certserve signing-key`: the files with what a server alone may know."""

from __future__ import annotations

import base64
from pathlib import Path

import click

from certserve.cli.output import fails_in_one_sentence, json_option, print_json
from certserve.endpoints.signatures import SigningKey
from certserve.noise.keystream import Secret

__all__ = ["secret", "signing_key"]

_NEW = click.argument("file", type=click.Path(path_type=Path))
_THERE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def secret() -> None:
    """Make, replace and name the secret that keys a server's noise, an epoch at a time.

    Whoever knows the current secret can choose images after the noise, and gets false certificates. Its commitment,
    which GetModel and every certificate repeat, gives nothing away.

    \b
    Example: certserve secret new secret.hex
             certserve serve --secret-file secret.hex
    """


@secret.command("new")
@_NEW
@json_option
@fails_in_one_sentence
def new_secret(file: Path, as_json: bool) -> None:
    """Make a secret in FILE, which must not exist, for its owner alone to read; print its commitment.

    \b
    Example: certserve secret new secret.hex
    """
    made = Secret.fresh()
    made.to_file(file)
    _tell(as_json, commitment=made.commitment)


@secret.command("rotate")
@_THERE
@json_option
@fails_in_one_sentence
def rotate_secret(file: Path, as_json: bool) -> None:
    """Put a new secret into FILE; print its commitment. The old one stays beside it, as FILE.COMMITMENT.

    Servers go on with the old one until they get SIGHUP or are started again. When none of them draws with it any
    more (each says so in its log), it may be published: then everybody can check the certificates that name its
    commitment, with `certserve verify --secret-file`. It must never be served again.

    \b
    Example: certserve secret rotate secret.hex
    """
    made = Secret.fresh()
    kept = made.replace_file(file)
    _tell(as_json, commitment=made.commitment)
    click.echo(f"certserve: the old secret is in {kept}; send SIGHUP to every server of {file}.", err=True)


@secret.command("commitment")
@_THERE
@json_option
@fails_in_one_sentence
def commitment_of_secret(file: Path, as_json: bool) -> None:
    """Print the commitment to the secret in FILE: the SHA-256 of its 32 bytes.

    \b
    Example: certserve secret commitment secret.hex
    """
    _tell(as_json, commitment=Secret.from_file(file).commitment)


@click.group("signing-key")
def signing_key() -> None:
    """Make the key that signs a server's answers, and print its public key.

    \b
    Example: certserve signing-key new signing.pem
             certserve serve --signing-key-file signing.pem
    """


@signing_key.command("new")
@_NEW
@json_option
@fails_in_one_sentence
def new_signing_key(file: Path, as_json: bool) -> None:
    """Make an Ed25519 key in FILE, which must not exist, for its owner alone to read; print its public key.

    \b
    Example: certserve signing-key new signing.pem
    """
    made = SigningKey.fresh()
    made.to_file(file)
    _tell(as_json, public_key=_base64(made))


@signing_key.command("public")
@_THERE
@json_option
@fails_in_one_sentence
def public_key(file: Path, as_json: bool) -> None:
    """Print the public key of the signing key in FILE, in base64, as `certserve verify --public-key` takes it.

    \b
    Example: certserve signing-key public signing.pem
    """
    _tell(as_json, public_key=_base64(SigningKey.from_file(file)))


def _base64(key: SigningKey) -> str:
    return base64.b64encode(key.public_key).decode()


def _tell(as_json: bool, **value: str) -> None:
    """Print the one value, with its name in JSON."""
    if as_json:
        print_json(value)
    else:
        click.echo(next(iter(value.values())))
