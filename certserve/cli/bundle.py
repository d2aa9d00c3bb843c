"""`certserve bundle`: a user's own classifier, made ready to serve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from certserve.cli.ask import client_of, connection_options
from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout
from certserve.cli.values import read_labels, read_numbers, read_shape
from certserve.noise.grid import LARGEST_SIGMA
from certserve.smoothing.bounds import smallest_certifying_n

if TYPE_CHECKING:
    from certserve.backends import LoadedExecution
    from certserve.bundle import Bundle

__all__ = ["bundle"]


@click.group()
def bundle() -> None:
    """Make a bundle: a directory that `certserve serve` can serve.

    \b
    Example: certserve bundle create model.onnx --labels classes.txt --sigma 0.25 -o my-bundle
             certserve bundle fetch --server localhost:8700 -o fetched
    """


@bundle.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The directory to make.")
@click.option("--sigma", "sigmas", type=float, multiple=True, required=True, help="A noise level it was trained for.")
@click.option(
    "--labels",
    required=True,
    help="Class names in order: a text file with one a line, a CSV file with a column `name`, or a,b,c.",
)
@click.option("--name", help="The model's name; default: the directory's.")
@click.option("--mean", help="Per-channel mean that the model expects to be subtracted: 0.485,0.456,0.406.")
@click.option("--std", help="Per-channel standard deviation that it expects to be divided by.")
@click.option("--colour", type=click.Choice(["grey", "rgb", "bgr"]), help="Default: grey for one channel, else rgb.")
@click.option("--shape", help="channels,height,width of the input, where the graph leaves them open: 3,224,224.")
@click.option("--resize", type=int, help="With --fit resize-crop: the shorter side before the centre is cropped.")
@click.option("--n0", type=int, default=100, show_default=True, help="Default selection draws.")
@click.option("--n", type=int, default=10_000, show_default=True, help="Default estimation draws.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Default failure probability.")
@click.option("--description", default="", help="A sentence about the model.")
@click.option("--trust", is_flag=True, help="Allow a .pt2 file, which can run code of its own when it is loaded.")
@json_option
@fails_in_one_sentence
def create(
    model: Path,
    output: Path,
    sigmas: tuple[float, ...],
    labels: str,
    name: str | None,
    mean: str | None,
    std: str | None,
    colour: str | None,
    shape: str | None,
    resize: int | None,
    n0: int,
    n: int,
    alpha: float,
    description: str,
    trust: bool,
    as_json: bool,
) -> None:
    """Make a bundle from an ONNX classifier with a free batch axis, or a .pt2 file of torch.export.save.

    The normalisation becomes part of the model, so that noise is added to pixels in [0, 1]; a .pt2 file must hold
    it already. The model is loaded and checked: finite logits, and rows that do not depend on each other.

    \b
    Example: certserve bundle create model.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
                 --labels classes.txt --sigma 0.25 --resize 256 -o my-bundle
    """
    from certserve import bundle as bundles

    said: dict[str, Any] = {
        "name": name or output.resolve().name,
        "labels": read_labels(labels),
        "sigmas": sigmas,
        "shape": read_shape(shape),
        "colour": colour,
        "resize": resize,
        "description": description,
        "defaults": bundles.Defaults(sigmas[0], n0, n, alpha),
    }
    with progress_bar(f"making {output.name}"):
        if model.suffix == ".pt2":
            if mean or std or not shape:
                raise click.UsageError("A .pt2 file needs --shape, and holds its normalisation: no --mean, no --std.")
            made = bundles.create_program(model, output, **said)
        else:
            means, stds = read_numbers("--mean", mean), read_numbers("--std", std)
            made = bundles.create(model, output, mean=means, std=stds, **said)
        loaded = _checked(made, trust)
    if as_json:
        print_json({"path": str(output), "name": made.name, "fingerprint": loaded.fingerprint})
        return
    stdout().print(
        f"Made {output}: {len(made.labels)} classes, input {'x'.join(map(str, made.shape))} {made.colour}, sigma "
        f"{', '.join(f'{sigma:g}' for sigma in made.sigmas)}. It loads, and no coupling between its rows was found.\n"
        f"Try: certserve certify IMAGE --model {output} --fit resize-crop{' --trust' * trust}\n"
        f"Serve: certserve serve --model {output}{' --trust' * trust}",
        highlight=False,
        markup=False,
        soft_wrap=True,  # commands to copy stay on one line
    )


@bundle.command()
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The directory to make.")
@click.option("--model", default="", help="A served model's name; default: the server's first.")
@click.option("--digest", help="The SHA-256 that the weights must have, in hexadecimal, from the operator.")
@connection_options
@json_option
@fails_in_one_sentence
def fetch(output: Path, model: str, digest: str | None, as_json: bool, **options: Any) -> None:
    """Fetch a served model's weights, where its server hands them out, as a bundle to robustify with here.

    The weights are a safetensors file: numbers, of which size, digest and network are checked. The digest that the
    server says shows damage on the way; that they are the operator's, --digest shows, or TLS. The bundle runs in torch,
    an execution of its own: its certificates are its own, not the server's.

    \b
    Example: certserve bundle fetch --server localhost:8700 -o fetched
             certserve robustify photo.png -o safe.png --model fetched --fit resize-crop
    """
    if not options["server"]:
        raise click.UsageError("--server HOST:PORT is missing: where to fetch from.")
    with progress_bar(f"fetching {output.name}"), client_of(options) as client:
        surrogate = client.get_surrogate(model)
    if digest is not None and digest.lower() != surrogate.digest:
        raise ValueError(f"the server's weights have the digest {surrogate.digest}, not {digest}; nothing was written")
    made = surrogate.store(output)
    if as_json:
        print_json({"path": str(output), "name": made.name, "digest": surrogate.digest})
        return
    stdout().print(
        f"Made {output}: the weights of {made.name} {made.version}, SHA-256 {surrogate.digest}.\n"
        f"Try: certserve robustify IMAGE -o safe.png --model {output} --fit resize-crop",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _checked(made: Bundle, trust: bool) -> LoadedExecution:
    """The bundle, loaded; one that is refused does not stay on disk."""
    from certserve import backends

    try:
        smallest = smallest_certifying_n(made.defaults.alpha)
        if made.defaults.n < smallest or max(made.sigmas) > LARGEST_SIGMA:
            raise ValueError(
                f"expected sigmas of at most {LARGEST_SIGMA:g} (in units of pixels in [0, 1]) and, at this alpha, n of "
                f"at least {smallest}: with less nothing can be certified"
            )
        return backends.load(made, trust=trust)
    except BaseException:
        shutil.rmtree(made.path)
        raise
