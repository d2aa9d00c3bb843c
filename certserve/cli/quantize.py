"""`certserve quantize`: the int8 executions of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout

__all__ = ["quantize"]

_PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", "paths", multiple=True, required=True, type=_PATH, help="Where the images are; repeatable.")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True, help="Which part.")
@json_option
@fails_in_one_sentence
def quantize(bundle: Path, paths: tuple[Path, ...], split: str, as_json: bool) -> None:
    """Give a bundle its int8 executions: int8, which serves where the processor multiplies bytes, and int8-7bit.

    The weights of int8-7bit have 7 bits, so that it can serve where the processor has only AVX2. int8 is made on
    machines that can run it. Quantisation is static, per channel, calibrated on noisy copies of up to 640 images.
    An int8 classifier is compared with the float one on the same noisy copies of others, and refused if it certifies
    over 3 points less (of fewer than 50 images: over one image less).
    Give images that the model was not trained on, or some of those it was: labels are needed for the comparison.

    \b
    Example: certserve quantize my-bundle --data my-bundle.training/held_out.npz
    """
    from certserve import bundle as bundles
    from certserve import datasets
    from certserve.images import Geometry
    from certserve.training.quantisation import add_int8

    found = bundles.read(bundle)
    geometry = Geometry(*found.shape, found.colour, found.resize)
    data = datasets.read(paths, split=split, geometry=geometry, classes=found.labels)
    with progress_bar(f"quantising {found.name}"):
        made = add_int8(bundle, data)
    provenance = bundles.read(bundle).provenance
    said = {name: provenance[name] for name in made}
    if as_json:
        print_json({"path": str(bundle), **said})
        return
    for name, words in said.items():
        stdout().print(f"{bundle} has the execution {name}: {words}.", highlight=False, markup=False)
