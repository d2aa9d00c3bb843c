"""Every parameter of a request, judged on its own; what goes with what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from certserve.bundle import Defaults
from certserve.endpoints.checks import Checks
from certserve.endpoints.models import ServedModel
from certserve.endpoints.plans import AnytimePlan, Budgets, CertifyPlan, FixedPlan, LooksPlan, PredictPlan, TargetPlan
from certserve.endpoints.requests import CertifyRequest
from certserve.errors import InvalidRequest, Violation
from certserve.images import EncodedImage, Geometry, ImageFit, ImageInput, Limits, RawImage, encode_png
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound, Case, Certificate, Origin, Setting, Space, Votes

PNG = EncodedImage(encode_png(np.zeros((1, 2, 2), np.uint8), "grey"))

BUDGETS = Budgets(n0=100, n=1_000, alpha=0.001, bound=Bound.BINARY, sigma=0.25, arithmetic_error=0.0)


@dataclass(frozen=True)
class _Bundle:
    sigmas: tuple[float, ...] = (0.5, 0.25, 1.0)
    shape: tuple[int, ...] = (1, 2, 2)
    defaults: Defaults = Defaults(0.25, n0=100, n=10_000, alpha=0.001, predict_n=1_000)  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class _Model:
    """What the checks look at."""

    bundle: _Bundle = _Bundle()
    largest_n: int = 5_000
    geometry: Geometry = Geometry(1, 2, 2, "grey")  # noqa: RUF009 - frozen


def checks(*malformed: Violation) -> Checks:
    """Of a request to a model of three sigmas that takes at most 5,000 draws of 2 x 2 grey pixels."""
    return Checks(cast(ServedModel, _Model()), Limits(), malformed)


def found(check: Callable[[Checks], object], *malformed: Violation) -> list[str]:
    """The fields that are wrong."""
    made = checks(*malformed)
    check(made)
    try:
        made.conclude(PNG, b"", None)
    except InvalidRequest as error:
        return [violation.field for violation in error.violations]
    return []


def raw(value: float, dtype: Any = np.float32) -> RawImage:
    """Four pixels alike."""
    return RawImage(np.full((1, 2, 2), value, dtype))


class TestSigma:
    """One of the model's."""

    def test_the_default_is_not_the_first(self) -> None:
        """It is the bundle's default."""
        assert checks().sigma(None) == 0.25

    @pytest.mark.parametrize("value", [0.5, 0.25, 1.0])
    def test_each_that_is_offered(self, value: float) -> None:
        """All of them."""
        assert checks().sigma(value) == value
        assert found(lambda c: c.sigma(value)) == []

    @pytest.mark.parametrize("value", [0.0, -0.25, 0.75, 0.2500001, 2.0])
    def test_any_other(self, value: float) -> None:
        """Between them, too: the model was not trained for it."""
        assert found(lambda c: c.sigma(value)) == ["sigma"]

    def test_the_sentence_lists_the_offer(self) -> None:
        """So that the next request is right."""
        made = checks()
        made.sigma(0.75)
        with pytest.raises(InvalidRequest, match=r"0\.75.*0\.5, 0\.25, 1$"):
            made.conclude(PNG, b"", None)


class TestDraws:
    """1 .. the server's limit."""

    @pytest.mark.parametrize("value", [1, 100, 5_000])
    def test_in_range(self, value: int) -> None:
        """Both ends included."""
        assert checks().draws("n", value, 7) == value
        assert found(lambda c: c.draws("n", value, 7)) == []

    @pytest.mark.parametrize("value", [0, -1, 5_001, 10**30])
    @pytest.mark.parametrize("name", ["n", "n0"])
    def test_out_of_range(self, name: str, value: int) -> None:
        """Under the field's own name."""
        assert found(lambda c: c.draws(name, value, 7)) == [name]

    @pytest.mark.parametrize(("default", "expected"), [(10_000, 5_000), (5_000, 5_000), (1_000, 1_000)])
    def test_a_default_is_clipped_by_the_servers_limit(self, default: int, expected: int) -> None:
        """The caller who says nothing is not refused for what the bundle says."""
        assert checks().draws("n", None, default) == expected
        assert found(lambda c: c.draws("n", None, default)) == []


class TestAlpha:
    """In (0, 1), and not below what the bounds vouch for."""

    @pytest.mark.parametrize("value", [1e-100, 1e-9, 0.05, 0.999999])
    def test_in_range(self, value: float) -> None:
        """Very small ones too."""
        assert checks().alpha(value) == value
        assert found(lambda c: c.alpha(value)) == []

    @pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1.5, 9e-101, 5e-324, float("nan"), float("inf")])
    def test_out_of_range(self, value: float) -> None:
        """NaN among them: no comparison with it holds."""
        assert found(lambda c: c.alpha(value)) == ["alpha"]

    def test_the_default(self) -> None:
        """The bundle's."""
        assert checks().alpha(None) == 0.001


class TestImage:
    """What arithmetic an image gets."""

    @pytest.mark.parametrize(
        ("image", "asked", "given"),
        [
            (PNG, None, Arithmetic.GRID),
            (PNG, Arithmetic.FLOAT, Arithmetic.FLOAT),
            (raw(7, np.uint8), None, Arithmetic.GRID),
            (raw(7, np.uint8), Arithmetic.FLOAT, Arithmetic.FLOAT),
            (raw(1.0), None, Arithmetic.GRID),
            (raw(1.0), Arithmetic.GRID, Arithmetic.GRID),
            (raw(1.0), Arithmetic.FLOAT, Arithmetic.FLOAT),
            (raw(0.3), None, Arithmetic.FLOAT),
            (raw(0.3), Arithmetic.FLOAT, Arithmetic.FLOAT),
            (raw(-0.0), None, Arithmetic.FLOAT),
        ],
    )
    def test_the_arithmetic(self, image: ImageInput, asked: Arithmetic | None, given: Arithmetic) -> None:
        """What was asked for; else grid wherever the pixels allow it."""
        made = checks()
        assert made.image(image, ImageFit.EXACT, asked) is given
        assert made.conclude(image, b"", None) is image

    def test_off_the_grid_in_grid_arithmetic(self) -> None:
        """Refused, with what to do instead."""
        assert found(lambda c: c.image(raw(0.3), ImageFit.EXACT, Arithmetic.GRID)) == ["image"]

    def test_all_problems_of_one_image(self) -> None:
        """Shape and values at once; of the grid only where the values are any."""
        image = RawImage(np.full((1, 3, 2), np.nan, np.float32))
        assert found(lambda c: c.image(image, ImageFit.EXACT, Arithmetic.GRID)) == ["image", "image"]

    def test_none(self) -> None:
        """It is the one thing that has no default."""
        assert found(lambda c: c.image(None, ImageFit.EXACT, None)) == ["image"]

    def test_none_because_the_message_was_wrong(self) -> None:
        """A tensor that could not be read is not missing, too."""
        wrong = Violation("image.tensor.data", "has 3 bytes")
        assert found(lambda c: c.image(None, ImageFit.EXACT, None), wrong) == ["image.tensor.data"]
        assert found(lambda c: c.image(None, ImageFit.EXACT, None), Violation("n", "x")) == ["n", "image"]


class TestPlans:
    """A plan is what its parameters allow, and has draws enough to come to something."""

    @pytest.mark.parametrize(
        ("plan", "changes", "fields"),
        [
            (FixedPlan(), {}, []),
            (TargetPlan(0.25, (0.3, 0.5)), {}, []),
            (TargetPlan(-0.25), {}, ["plan"]),
            (TargetPlan(0.0), {}, ["plan"]),
            (TargetPlan(math.nan), {}, ["plan"]),
            (TargetPlan(0.25, (0.2,)), {}, ["plan"]),
            (TargetPlan(0.25), {"bound": Bound.TWO_CLASS}, ["plan"]),
            (TargetPlan(0.25), {"n0": 10_001}, ["plan"]),
            (LooksPlan(), {}, []),
            (LooksPlan((100, 1_000)), {"bound": Bound.TWO_CLASS}, []),
            (LooksPlan((500, 100, 1_000)), {}, ["plan"]),
            (LooksPlan((100, 100, 1_000)), {}, ["plan"]),
            (LooksPlan((100, 900)), {}, ["plan"]),
            (LooksPlan((0, 1_000)), {}, ["plan"]),
            (LooksPlan(precision=-0.1), {}, ["plan"]),
            (LooksPlan(precision=math.nan), {}, ["plan"]),
        ],
        ids=str,
    )
    def test_certify(self, plan: CertifyPlan, changes: dict[str, Any], fields: list[str]) -> None:
        """What is wrong with a plan is said under the field of that name."""
        assert found(lambda c: c.certify_plan(plan, replace(BUDGETS, **changes))) == fields

    @pytest.mark.parametrize("plan", [FixedPlan(), AnytimePlan()])
    def test_predict(self, plan: PredictPlan) -> None:
        """Both take what a Certify takes."""
        assert found(lambda c: c.predict_plan(plan, BUDGETS)) == []

    @pytest.mark.parametrize("plan", [FixedPlan(), AnytimePlan()])
    def test_the_smallest_n_that_names_a_class(self, plan: PredictPlan) -> None:
        """Votes that all agree are not enough with one draw fewer: 2 * .5^n must be at most alpha."""
        assert found(lambda c: c.predict_plan(plan, replace(BUDGETS, n=11, alpha=0.001))) == []
        assert found(lambda c: c.predict_plan(plan, replace(BUDGETS, n=10, alpha=0.001))) == ["n"]

    @pytest.mark.parametrize("plan", [FixedPlan(), TargetPlan(0.25), LooksPlan()], ids=str)
    @pytest.mark.parametrize("bound", Bound)
    def test_the_smallest_n_is_enough_and_one_less_is_not(self, plan: CertifyPlan, bound: Bound) -> None:
        """And its number is said: with it, votes that all agree give a certificate.

        For a target it is a limit that no test of that level can beat, and the prior may need a few more.
        """
        if isinstance(plan, TargetPlan) and bound is Bound.TWO_CLASS:
            return
        budgets = replace(BUDGETS, bound=bound)
        least = next(n for n in range(1, 2_000) if not _fields(plan, replace(budgets, n=n)))
        assert least > 1
        assert isinstance(plan, TargetPlan) or _certifies(plan, replace(budgets, n=least))
        assert not _certifies(plan, replace(budgets, n=least - 1))
        made = checks()
        made.certify_plan(plan, replace(budgets, n=least - 1))
        with pytest.raises(InvalidRequest, match=rf"n: {least - 1} draws.*smallest n that could is {least}$"):
            made.conclude(PNG, b"", None)

    def test_no_number_is(self) -> None:
        """Then it is alpha, or the radius, that has to change."""
        assert found(lambda c: c.certify_plan(TargetPlan(100.0), BUDGETS)) == ["plan"]

    def test_the_last_look_is_n(self) -> None:
        """Where n is left out."""
        request = CertifyRequest(image=PNG, plan=LooksPlan((100, 700)))
        assert checks().budgets(request, 1_000)[0].n == 700
        assert checks().budgets(replace(request, n=800), 1_000)[0].n == 800


def _fields(plan: CertifyPlan, budgets: Budgets) -> list[str]:
    return found(lambda c: c.certify_plan(plan, budgets))


def _certifies(plan: CertifyPlan, budgets: Budgets) -> bool:
    """Whether votes that all agree give a certificate."""
    started = plan.certify(budgets)
    setting = Setting(
        budgets.sigma, started.n0, started.n, budgets.alpha, started.name, tuple(started.looks), budgets.bound,
        "grid", "stream", budgets.arithmetic_error, schedule=started.schedule,
    )  # fmt: skip
    origin = Origin("model", "1", "execution", "print", "commitment", Space("pixels", (1, 2, 2), "units", "digest"))
    decider = started.begin(Case(setting, origin, ("cat", "dog")))
    outcome = None
    for look in started.looks:
        outcome = decider.look(Votes((started.n0, 0)), Votes((look, 0)))
        if outcome is not None:
            break
    return isinstance(outcome, Certificate)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_the_time_budget(value: float) -> None:
    """More than nothing, less than for ever."""
    assert checks().conclude(PNG, b"", 1e-9) is PNG
    with pytest.raises(InvalidRequest, match="time_budget: must be a positive number of seconds"):
        checks().conclude(PNG, b"", value)


def test_the_nonce() -> None:
    """64 bytes are the most."""
    assert checks().conclude(PNG, bytes(64), None) is PNG
    with pytest.raises(InvalidRequest, match="nonce: has 65 bytes"):
        checks().conclude(PNG, bytes(65), None)


def test_malformed_comes_first_and_nothing_is_lost() -> None:
    """In the order in which it was found."""
    assert found(lambda c: (c.alpha(2.0), c.sigma(9.0), c.draws("n", 0, 1)), Violation("image.fit", "x")) == [
        "image.fit",
        "alpha",
        "sigma",
        "n",
    ]
