"""What a recipe allows, and the rates, weights and seeds that it gives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from certserve.training.recipe import Recipe, RecipeError

_POSITIVE = ["sigma", "epochs", "batch", "copies", "learning_rate", "blocks", "threads"]
_AT_LEAST_0 = ["consistency", "entropy", "ramp", "momentum", "weight_decay", "warm_up", "shift", "seed"]


def made(**values: Any) -> Recipe:
    """A recipe with these values in place of the usual ones."""
    return Recipe(**{"sigma": 0.25, **values})


@pytest.mark.parametrize("name", _POSITIVE + _AT_LEAST_0)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_no_number_is_negative_or_infinite(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=rf"^{name} must be a number, .*, not {value}"):
        made(**{name: value})


@pytest.mark.parametrize("name", _POSITIVE)
def test_nought_is_refused_where_it_means_nothing(name: str) -> None:
    with pytest.raises(RecipeError, match=f"^{name} must be a number, positive, not 0"):
        made(**{name: 0})


@pytest.mark.parametrize("name", _AT_LEAST_0)
def test_nought_is_allowed_elsewhere(name: str) -> None:
    assert getattr(made(**{name: 0}), name) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"momentum": 1.0}, "must lie below 1"),
        ({"warm_up": 1.0}, "must lie below 1"),
        ({"ema_decay": 1.0}, "must lie below 1"),
        ({"ema_decay": -0.1}, "must lie below 1"),
        ({"ema_decay": math.nan}, "must lie below 1"),
        ({"held_out": 0.0}, "held_out above 0"),
        ({"held_out": 1.0}, "must lie below 1"),
        ({"held_out": math.nan}, "must lie below 1"),
        ({"copies": 1, "entropy": 0.0}, "take 2 copies at least"),
        ({"copies": 1, "consistency": 0.0}, "take 2 copies at least"),
        ({"widths": ()}, r"not \(\)"),
        ({"widths": (8, 0)}, r"not \(8, 0\)"),
        ({"precision": "float16"}, "one of bfloat16, float32, not 'float16'"),
    ],
)
def test_the_other_ranges(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        made(**values)


def test_the_extremes_that_make_sense_are_allowed() -> None:
    """Fails if a bound is tighter than it is said to be."""
    Recipe(1e-9, copies=1, consistency=0.0, entropy=0.0, ema_decay=0.0, held_out=1e-9)
    Recipe(0.25, momentum=0.999, warm_up=0.999, ema_decay=0.999, held_out=0.999, widths=(1,))


@pytest.mark.parametrize(("images", "steps"), [(1, 1), (31, 1), (32, 1), (63, 1), (64, 2), (100, 3)])
def test_a_last_smaller_batch_is_left_out(images: int, steps: int) -> None:
    recipe = Recipe(0.25, epochs=7, batch=32)
    assert (recipe.steps_per_epoch(images), recipe.steps(images)) == (steps, 7 * steps)


def test_the_rate_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    recipe = Recipe(0.25, learning_rate=0.4, warm_up=0.1)
    rates = [recipe.rate(step, 200) for step in range(200)]
    assert rates[:20] == pytest.approx([0.02 * (step + 1) for step in range(20)], rel=1e-12)
    assert rates[20:] == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 180)) for k in range(180)], rel=1e-12)
    assert rates[110] == pytest.approx(0.2, rel=1e-12)
    assert 0 < rates[-1] < 1e-3 * 0.4
    assert max(rates) == rates[19] == rates[20] == pytest.approx(0.4, rel=1e-12)


@pytest.mark.parametrize("warm_up", [0.0, 0.05, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_every_rate_of_the_shortest_runs_is_positive_and_no_larger_than_said(warm_up: float, steps: int) -> None:
    recipe = Recipe(0.25, learning_rate=0.5, warm_up=warm_up)
    assert all(0 < recipe.rate(step, steps) <= 0.5 for step in range(steps))


def test_the_regularisation_rises_to_its_weights_and_stays() -> None:
    recipe = Recipe(0.25, consistency=8.0, entropy=2.0, ramp=0.4)
    found = [recipe.regularisation(step, 10) for step in range(10)]
    assert found == [(2.0, 0.5), (4.0, 1.0), (6.0, 1.5)] + 7 * [(8.0, 2.0)]


@pytest.mark.parametrize(("ramp", "steps"), [(0.0, 10), (0.5, 1)])
def test_without_a_ramp_it_is_whole_from_the_first_step(ramp: float, steps: int) -> None:
    assert Recipe(0.25, consistency=8.0, entropy=2.0, ramp=ramp).regularisation(0, steps) == (8.0, 2.0)


def test_every_purpose_and_step_of_every_seed_has_a_seed_of_its_own() -> None:
    purposes = [("weights",), ("split",), ("held out",), *itertools.product(("order", "step"), range(200))]
    found = [Recipe(0.25, seed=seed).seed_of(*what) for seed in (0, 1, 11) for what in purposes]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**32 for seed in found)
    assert found == [Recipe(0.5, seed=seed).seed_of(*what) for seed in (0, 1, 11) for what in purposes]
