"""`certserve tune`: the batch shapes that run fastest on this machine."""

from __future__ import annotations

import click
from rich.table import Table

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout

__all__ = ["tune"]


@click.command()
@click.argument("model", default=None, required=False)
@click.option("--execution", help="Which of the bundle's executions, by name; default: see `certserve doctor`.")
@click.option("--trust", is_flag=True, help="Allow a bundle whose file can run code of its own (torch.export).")
@json_option
@fails_in_one_sentence
def tune(model: str | None, execution: str | None, trust: bool, as_json: bool) -> None:
    """Measure how many rows a batch should have on this machine, and keep the answer for this user.

    It changes how fast answers come, never the answers: only batches are tried whose logits are those of the usual
    ones, bit for bit. Run it on a machine that does nothing else; it takes about 15 seconds. MODEL is a bundle's
    directory or a packaged model's name.

    \b
    Example: certserve tune cifar10
    """
    from certserve import backends, bundle
    from certserve.backends import tuning
    from certserve.zoo import path_of

    found = bundle.read(path_of(model))
    loaded = backends.load(found, None if execution is None else found.execution(execution), trust=trust)
    digest = found.digests[found.execution(loaded.name).file]
    with progress_bar(f"tuning {found.name}, {loaded.name}"):
        candidates = tuning.candidates_for(loaded.backend, max(found.sigmas))
        paces, ladder = tuning.measure(loaded.backend, max(found.sigmas), candidates=candidates)
    path = tuning.remember(digest, loaded.facts.identity, ladder)
    if as_json:
        rates = {str(pace.rows): pace.draws_per_second for pace in paces}
        print_json({"model": found.name, "execution": loaded.name, "draws_per_second": rates, "shapes": ladder})
        return
    table = Table("rows", "draws/s", title=f"{found.name}, {loaded.name}", title_justify="left")
    for pace in paces:
        table.add_row(f"{pace.rows}{' (chosen)' if pace.rows == ladder[-1] else ''}", f"{pace.draws_per_second:.0f}")
    stdout().print(table)
    stdout().print(f"Batches of {', '.join(map(str, ladder))} rows from now on; kept in {path}", highlight=False)
