"""The options that say when to look at the votes, and the plan that they come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from certserve.cli.values import read_numbers
from certserve.endpoints.plans import AnytimePlan, CertifyPlan, FixedPlan, LooksPlan, PredictPlan, TargetPlan
from certserve.smoothing.outcomes import Bound

__all__ = [
    "certify_plan",
    "certify_plan_options",
    "dataset_plan_options",
    "predict_plan",
    "predict_plan_options",
]

_TIME_BUDGET = click.option(
    "--time-budget", type=float, metavar="SECONDS", help="Answer by then with what the draws so far show."
)
_DATASET = (
    click.option("--target-radius", type=float, help="Only ask whether the radius is at least this: far fewer draws."),
    click.option("--grow", metavar="R1,R2,...", help="With --target-radius: larger radii to go on to."),
    click.option("--precision", type=float, help="Stop where more draws could hardly add so much to the radius."),
    click.option(
        "--bound",
        type=click.Choice([bound.value for bound in Bound]),
        default=Bound.BINARY.value,
        show_default=True,
        help="How the runner-up is bounded.",
    ),
)
_CERTIFY = (
    click.option("--n0", type=int, help="Draws that select the label."),
    *_DATASET,
    _TIME_BUDGET,
    click.option("--stream", is_flag=True, help="Show each better certificate as it comes; all of them are valid."),
)
_PREDICT = (
    click.option("--anytime", is_flag=True, help="Answer as soon as the votes allow it: a few dozen draws."),
    click.option("--n0", type=int, help="With --anytime: draws that select the candidate."),
    _TIME_BUDGET,
)


def dataset_plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those that say the same of every image of a data set."""
    return _with(_DATASET, command)


def certify_plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `certify_plan` reads."""
    return _with(_CERTIFY, command)


def predict_plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `predict_plan` reads."""
    return _with(_PREDICT, command)


def certify_plan(options: dict[str, Any]) -> CertifyPlan:
    """A target where one is named; looks where the answer may come early; else all n draws, then one look.

    Raises:
        click.UsageError: options that do not go together.
    """
    if options["grow"] and options["target_radius"] is None:
        raise click.UsageError("--grow goes with --target-radius.")
    if options["target_radius"] is not None:
        if options["precision"] is not None:
            raise click.UsageError("--precision does not go with --target-radius.")
        return TargetPlan(options["target_radius"], tuple(read_numbers("--grow", options["grow"]) or ()))
    early = options.get("stream") or options["precision"] is not None or options.get("time_budget") is not None
    if early:
        return LooksPlan(precision=options["precision"])
    return FixedPlan()


def predict_plan(options: dict[str, Any]) -> PredictPlan:
    """Raises click.UsageError: options that do not go together."""
    if options["n0"] is not None and not options["anytime"]:
        raise click.UsageError("--n0 goes with --anytime.")
    return AnytimePlan() if options["anytime"] else FixedPlan()


def _with(options: tuple[Callable[..., Any], ...], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
