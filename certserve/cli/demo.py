"""`certserve demo`: the real server on the packaged model, asked about real images over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import click

from certserve import zoo
from certserve.cli.output import (
    Answer,
    fails_in_one_sentence,
    json_option,
    print_json,
    progress_bar,
    result_table,
    stdout,
)
from certserve.smoothing.document import to_document
from certserve.smoothing.outcomes import Certificate, round_down

__all__ = ["demo"]


@click.command()
@click.option("--n", type=int, help="Estimation draws an image; default: the model's (10,000).")
@json_option
@fails_in_one_sentence
def demo(n: int | None, as_json: bool) -> None:
    """Start the server on the packaged model and certify the sample images that come with it.

    \b
    Example: certserve demo
    """
    samples = zoo.samples()
    with progress_bar(f"certifying {len(samples)} images", len(samples)) as report:
        answers, address = asyncio.run(_certify(samples, n, lambda done: report(done, len(samples))))
    if as_json:
        print_json([{"image": name, "seconds": s, **to_document(outcome)} for name, outcome, s in answers])
        return
    _explain(answers, address)


async def _certify(samples: tuple[Path, ...], n: int | None, report: Callable[[int], None]) -> tuple[list[Answer], str]:
    """The samples' outcomes over a real connection to a real server."""
    from certserve.client import AsyncClient
    from certserve.endpoints.models import LoadedModel
    from certserve.noise.keystream import Secret
    from certserve.serving.config import Address, Config
    from certserve.serving.server import serving

    config = Config(server=Address(port=0, grace_seconds=1.0))
    loaded = [LoadedModel.read(zoo.path_of(None))]
    answers: list[Answer] = []
    async with serving(config, loaded, Secret.fresh()) as server:
        address = f"127.0.0.1:{server.port}"
        async with AsyncClient(address) as client:
            for sample in samples:
                start = time.perf_counter()
                outcome = await client.certify(sample, n=n)
                answers.append((str(sample), outcome, time.perf_counter() - start))
                report(len(answers))
    return answers, address


def _explain(answers: list[Answer], address: str) -> None:
    console = stdout()
    setting, origin = answers[0][1].setting, answers[0][1].origin
    console.print(
        f"A certserve server on {address} served {origin.model} ({origin.execution}) and certified "
        f"{len(answers)} real images: {setting.n0} + {setting.n:,} noisy copies each, sigma {setting.sigma:g}.\n",
        highlight=False,
    )
    console.print(result_table(answers))
    certificates = [outcome for _, outcome, _ in answers if isinstance(outcome, Certificate)]
    if certificates:
        best = max(certificates, key=lambda certificate: certificate.radius)
        console.print(
            f"\nWhat a radius means: {best.statement} A radius of {round_down(best.radius, 2)} is a change of every "
            f"pixel by {_per_pixel(best)} of 255 grey levels, or a larger change of fewer pixels.",
            highlight=False,
        )
    console.print(
        "The file names hold the true labels: a certificate says that the answer is stable, not that it is right."
        "\n\nNext: certserve serve, and in another terminal certserve certify IMAGE --server 127.0.0.1:8700;"
        "\n      certserve bundle create --help shows how to serve a model of your own.",
        highlight=False,
    )


def _per_pixel(certificate: Certificate) -> str:
    dimension = 1
    for length in certificate.origin.space.shape:
        dimension *= length
    return round_down(certificate.radius / dimension**0.5 * 255.0, 2)
