"""`certserve predict` and `certserve certify`: of a bundle in this process, or of a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from certserve.cli.output import (
    Answer,
    fails_in_one_sentence,
    json_option,
    live_answer,
    print_answers,
    progress_bar,
)
from certserve.cli.plans import certify_plan, certify_plan_options, predict_plan, predict_plan_options
from certserve.errors import InvalidRequest
from certserve.images import ImageFit
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Secret
from certserve.smoothing.outcomes import Bound

__all__ = ["bundle_options", "certify", "client_of", "connection_options", "model_to_ask", "predict"]

_Ask = Callable[[Any, str, dict[str, Any]], Any]
"""The answer of a model about an image, told something more with the question."""

_IMAGES = click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))

_MODEL = click.option(
    "--model", help="A bundle's directory or a packaged model's name; with --server, a served model's."
)
_FIT = click.option(
    "--fit",
    type=click.Choice([fit.value for fit in ImageFit]),
    default=ImageFit.EXACT.value,
    show_default=True,
    help="What to do with an image of another size than the model's.",
)
_EXECUTION = click.option(
    "--execution", help="Which of a bundle's executions, by name; default: see `certserve doctor`."
)
_TRUST = click.option("--trust", is_flag=True, help="Allow a bundle whose file can run code of its own (torch.export).")
_ASKING = (
    _MODEL,
    click.option("--sigma", type=float, help="Noise level in units of pixels in [0, 1]; one of the model's."),
    click.option("--n", type=int, help="Draws that the answer rests on."),
    click.option("--alpha", type=float, help="Probability of a wrong answer, in (0, 1)."),
    _FIT,
    click.option(
        "--arithmetic",
        type=click.Choice([arithmetic.value for arithmetic in Arithmetic]),
        help="In which arithmetic noise is added; default: grid.",
    ),
    click.option("--guard", is_flag=True, help="Draw nothing where the model's detectors flag the image."),
    _EXECUTION,
    click.option("--reform", is_flag=True, help="Put the bundle's reformer before its classifier."),
    _TRUST,
    click.option(
        "--secret-file", type=click.Path(exists=True, dir_okay=False), help="64 hex digits that key the noise."
    ),
)
_CONNECTING = (
    click.option("--server", metavar="HOST:PORT", help="Ask this server instead of a bundle here."),
    click.option("--token-file", type=click.Path(exists=True, dir_okay=False), help="The server's bearer token."),
    click.option("--root-certificates", type=click.Path(exists=True, dir_okay=False), help="PEM file; use TLS."),
)


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


connection_options = _options(*_CONNECTING)
bundle_options = _options(_MODEL, _FIT, _EXECUTION, _TRUST)


@click.command()
@_IMAGES
@_options(*_ASKING)
@predict_plan_options
@connection_options
@json_option
@fails_in_one_sentence
def predict(images: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """The smoothed classifier's label for IMAGES.

    \b
    Example: certserve predict photo.png --model my-bundle --fit resize-crop --anytime
    """
    question = _question(options, plan=predict_plan(options))
    _tell(*_ask(images, options, lambda model, image, more: model.predict(image, **question, **more)), as_json)


@click.command()
@_IMAGES
@_options(*_ASKING)
@certify_plan_options
@connection_options
@json_option
@fails_in_one_sentence
def certify(images: tuple[str, ...], as_json: bool, stream: bool, **options: Any) -> None:
    """The label of IMAGES, and the L2 radius within which nobody can change it.

    By default all n draws are taken, and the radius is as published. With --target-radius the answer comes as soon as
    that radius is shown, or looks out of reach; with --precision, --time-budget or --stream the votes are
    looked at after 200, 400, 800, ... draws.

    \b
    Example: certserve certify photo.png --n 10000 --json > certificate.json
             certserve verify certificate.json
             certserve certify photo.png --n 100000 --target-radius 0.5
             certserve certify photo.png --n 100000 --stream
    """
    question = _question(options, plan=certify_plan({**options, "stream": stream}), bound=Bound(options["bound"]))

    def ask(model: Any, image: str, more: dict[str, Any]) -> Any:
        if not stream:
            return model.certify(image, **question, **more)
        latest = None
        with live_answer(image) as show:
            told = {name: value for name, value in more.items() if name == "model"}
            for outcome in model.certify_stream(image, **question, **told):
                if outcome != latest:  # the last one, where it is no better, comes twice
                    show(outcome)
                latest = outcome
        return latest

    _tell(*_ask(images, options, ask, bar=not stream), as_json)


def _tell(answers: list[Answer], refused: list[str], as_json: bool) -> None:
    """Print the answers there are; what was refused follows, a sentence an image."""
    if answers:
        print_answers(answers, as_json)
    for sentence in refused:
        click.echo(f"certserve: {sentence}", err=True)
    if refused:
        sys.exit(2)


def _question(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What is asked about each image."""
    question = {name: options[name] for name in ("sigma", "n", "alpha", "n0", "time_budget")}
    question["guard"] = options["guard"]
    question["fit"] = ImageFit(options["fit"])
    question["arithmetic"] = Arithmetic(options["arithmetic"]) if options["arithmetic"] else None
    return question | more


def _ask(
    images: tuple[str, ...], options: dict[str, Any], ask: _Ask, *, bar: bool = True
) -> tuple[list[Answer], list[str]]:
    """The answers, and a sentence about every image that was refused; another failure ends the asking.

    Args:
        bar: show how far it is, where `ask` shows nothing itself.
    """
    answers: list[Answer] = []
    refused: list[str] = []
    title = f"asking about {len(images)} image{'s' * (len(images) > 1)}"
    with (
        progress_bar(title, len(images), shown=bar) as report,
        _model(options, answers, len(images), report) as (model, more),
    ):
        for image in images:
            start = time.perf_counter()
            try:
                answers.append((image, ask(model, image, more), time.perf_counter() - start))
            except InvalidRequest as error:
                refused.append(f"{Path(image).name}: {error}")
            report(len(answers) + len(refused), len(images))
    return answers, refused


@contextmanager
def _model(
    options: dict[str, Any], answers: list[Answer], total: int, report: Callable[[float, float | None], None]
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A model to ask, in this process or a server's, and what else it is told with each question."""
    with model_to_ask(options) as (model, name):
        if options["server"]:
            yield model, {"model": name}
        else:
            yield model, {"on_progress": lambda done, of: report(len(answers) + done / of, total)}


@contextmanager
def model_to_ask(options: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """A model to ask, in this process or a server's, and the name that it is asked by.

    Raises:
        click.UsageError: options that do not go together.
    """
    if options["server"]:
        for name in ("secret_file", "execution", "reform", "trust"):
            if options.get(name):
                option = "--" + name.replace("_", "-")
                raise click.UsageError(f"{option} is for a bundle here; a server has its own.")
        with client_of(options) as client:
            yield client, options["model"] or ""
        return
    if options["token_file"] or options["root_certificates"]:
        raise click.UsageError("--token-file and --root-certificates go with --server.")
    from certserve.endpoints.local import open_model

    secret = Secret.from_file(Path(options["secret_file"])) if options.get("secret_file") else None
    given = {name: options[name] for name in ("execution", "trust", "reform") if name in options}
    with open_model(options["model"], **given, key_source=secret) as model:
        yield model, ""


@contextmanager
def client_of(options: dict[str, Any]) -> Iterator[Any]:
    """A client of the server that the connection's options name."""
    from certserve.client import Client

    token = Path(options["token_file"]).read_text(encoding="ascii").strip() if options["token_file"] else None
    with Client(options["server"], root_certificates=options["root_certificates"], token=token) as client:
        yield client
