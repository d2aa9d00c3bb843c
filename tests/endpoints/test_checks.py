"""Every parameter of a request, judged on its own; what goes with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

from certserve.bundle import Defaults
from certserve.endpoints.checks import Checks
from certserve.endpoints.models import ServedModel
from certserve.errors import InvalidRequest, Violation
from certserve.images import EncodedImage, Geometry, ImageFit, ImageInput, Limits, RawImage, encode_png
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.bounds import smallest_certifying_n

PNG = EncodedImage(encode_png(np.zeros((1, 2, 2), np.uint8), "grey"))


@dataclass(frozen=True)
class _Bundle:
    sigmas: tuple[float, ...] = (0.5, 0.25, 1.0)
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
        made.conclude(PNG, b"")
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
            made.conclude(PNG, b"")


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
        assert made.conclude(image, b"") is image

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


class TestEnough:
    """Fewer draws than could ever certify anything."""

    def test_the_smallest_is_enough_and_one_less_is_not(self) -> None:
        """And its number is said."""
        least = smallest_certifying_n(0.001)
        assert found(lambda c: c.enough(least, 0.001, lambda: least)) == []
        made = checks()
        made.enough(least - 1, 0.001, lambda: least)
        with pytest.raises(InvalidRequest, match=rf"n: {least - 1} draws.*smallest n that could is {least}$"):
            made.conclude(PNG, b"")

    def test_no_number_is(self) -> None:
        """Then it is alpha that has to change."""

        def none() -> int:
            raise ValueError("no n up to 10000000 certifies anything")

        assert found(lambda c: c.enough(5, 1e-90, none)) == ["alpha"]


def test_the_plan() -> None:
    """Only the fixed one, yet."""
    assert found(lambda c: c.plan("fixed")) == []
    assert found(lambda c: c.plan("Fixed")) == ["plan"]


def test_the_nonce() -> None:
    """64 bytes are the most."""
    assert checks().conclude(PNG, bytes(64)) is PNG
    with pytest.raises(InvalidRequest, match="nonce: has 65 bytes"):
        checks().conclude(PNG, bytes(65))


def test_malformed_comes_first_and_nothing_is_lost() -> None:
    """In the order in which it was found."""
    assert found(lambda c: (c.alpha(2.0), c.sigma(9.0), c.draws("n", 0, 1)), Violation("image.fit", "x")) == [
        "image.fit",
        "alpha",
        "sigma",
        "n",
    ]
