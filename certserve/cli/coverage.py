"""`certserve evaluate coverage`: what a plan does, exactly, at true probabilities that are named."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from certserve.cli.output import fails_in_one_sentence, json_option, print_json, progress_bar, stdout
from certserve.cli.plans import certify_plan, dataset_plan_options, predict_plan
from certserve.endpoints.plans import Budgets
from certserve.evaluation.coverage import AnyPlan, Coverage
from certserve.evaluation.coverage import coverage as coverage_of
from certserve.smoothing.bounds import LARGEST_N
from certserve.smoothing.outcomes import Bound, round_up

__all__ = ["coverage"]

_NEXT_TO_NOTHING = 1e-12


@click.command()
@click.option("--n0", type=click.IntRange(1), default=100, show_default=True, help="Selection draws.")
@click.option("--n", type=click.IntRange(1, LARGEST_N), default=10_000, show_default=True, help="Estimation draws.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Probability of a false claim.")
@click.option("--sigma", type=float, default=0.25, show_default=True, help="Noise level, for radii and --precision.")
@dataset_plan_options
@click.option("--looks", is_flag=True, help="Looks at 200, 400, 800, ... and n draws, as `certify --stream` takes.")
@click.option("--predict", is_flag=True, help="PREDICT instead of CERTIFY.")
@click.option("--anytime", is_flag=True, help="PREDICT that answers as soon as the votes allow it.")
@click.option("--p", "probabilities", type=float, multiple=True, help="A true probability of the class; repeatable.")
@click.option("--runner-up", type=float, help="With --bound two-class: its true probability; default: (1 - p) / 2.")
@json_option
@fails_in_one_sentence
def coverage(probabilities: tuple[float, ...], runner_up: float | None, as_json: bool, **options: Any) -> None:
    """How often a plan errs, and how often and how soon it answers: exactly, by the binomial law.

    Without --p, a target is asked where p is just what each radius needs, and every other plan at several p. That
    takes seconds up to n = 10,000; at n = 100,000 a target takes some 15 s. `--anytime --p 0.5` takes minutes.

    \b
    Example: certserve evaluate coverage --n 10000 --alpha 0.001 --p 0.69
             certserve evaluate coverage --target-radius 0.5 --grow 0.75,1.0
             certserve evaluate coverage --looks --bound two-class
             certserve evaluate coverage --anytime --n0 16
    """
    if runner_up is not None and Bound(options["bound"]) is not Bound.TWO_CLASS:
        raise click.UsageError("--runner-up goes with --bound two-class.")
    plan = _plan(options)
    with progress_bar("following the votes") as report:
        found = coverage_of(plan, probabilities, sigma=options["sigma"], runner_up=runner_up, report=report)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)


def _plan(options: dict[str, Any]) -> AnyPlan:
    """Raises click.UsageError: options that do not go together."""
    bound = Bound(options["bound"])
    budgets = Budgets(options["n0"], options["n"], options["alpha"], bound, options["sigma"], 0.0)
    predicts = options["predict"] or options["anytime"]
    certifies = any(options[name] not in (None, False) for name in ("target_radius", "grow", "precision", "looks"))
    if predicts and (certifies or bound is not Bound.BINARY):
        raise click.UsageError("--predict and --anytime take none of the options of certificates.")
    if options["looks"] and options["target_radius"] is not None:
        raise click.UsageError("--looks does not go with --target-radius.")
    if predicts:
        return predict_plan({"anytime": options["anytime"], "n0": None}).predict(budgets)
    return certify_plan({**options, "stream": options["looks"]}).certify(budgets)


def _print(found: Coverage) -> None:
    worst = any(rate.worst_p is not None for rate in found.rates)
    table = Table(header_style="bold")
    for heading in ("true p", "P(false claim)", "alpha", "P(claim)", "mean draws"):
        table.add_column(heading, justify="right")
    for heading in ("worst p nearby", "P(false claim) there") if worst else ():
        table.add_column(heading, justify="right")
    for rate in found.rates:
        cells = [f"{rate.p:.6g}", _small(rate.false_claim), f"{found.alpha:g}"]
        cells.append("-" if rate.claim is None else f"{rate.claim:.4f}")
        cells.append("-" if rate.mean_draws is None else f"{rate.mean_draws:,.0f}")
        if rate.worst_p is not None and rate.worst_false_claim is not None:
            cells += [f"{rate.worst_p:.6f}", _small(rate.worst_false_claim)]
        table.add_row(*cells)
    console = stdout()
    console.print(table)
    lines = (
        f"Plan {found.plan}, n = {found.n:,}" + (f" after n0 = {found.n0:,}." if found.n0 else "."),
        f"P(false claim): {found.false_claim}. Rounded up; the plan promises at most alpha = {found.alpha!r}.",
        f"P(claim): {found.claim}.",
        f"Mean draws, those of the selection included: {found.mean_draws}.",
    )
    for line in lines:
        console.print(line, highlight=False)


def _small(probability: float) -> str:
    """Rounded up to 4 digits."""
    return f"< {_NEXT_TO_NOTHING:g}" if 0.0 < probability < _NEXT_TO_NOTHING else round_up(probability)
