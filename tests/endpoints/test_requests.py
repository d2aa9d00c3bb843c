"""Requests take their values' exact types, so that one question has one key, whatever Python type asked it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from certserve import errors
from certserve.endpoints.requests import CertifyRequest, PredictRequest
from certserve.images import ImageFit
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound


def test_equal_values_of_other_types_are_one_request() -> None:
    """Fails if a numpy integer, an integer sigma or an enum's own word stays what it was."""
    plain = CertifyRequest(image=None, sigma=1.0, n0=10, n=100, alpha=0.5, fit=ImageFit.RESIZE_CROP, nonce=b"x")
    other: dict[str, Any] = {"fit": "resize-crop", "bound": "binary", "nonce": bytearray(b"x")}
    other |= {"sigma": np.int64(1), "n0": np.int32(10), "n": np.uint8(100), "alpha": np.float64(0.5)}
    spelt = CertifyRequest(image=None, **other)
    assert spelt == plain
    for name in ("sigma", "n0", "n", "alpha", "fit", "bound", "nonce"):
        assert type(getattr(spelt, name)) is type(getattr(plain, name))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 1000.0),
        ("n", True),
        ("n", "7"),
        ("sigma", "0.25"),
        ("sigma", False),
        ("alpha", b"1"),
        ("alpha", 1j),
        ("fit", "nope"),
        ("fit", None),
        ("arithmetic", "exact"),
        ("nonce", "text"),
        ("nonce", None),
        ("model", 3),
    ],
)
def test_a_value_of_no_use_is_named(field: str, value: Any) -> None:
    """Fails if it raises something else, passes, or hides what else is wrong."""
    request = PredictRequest(image=None, **{field: value, "n" if field != "n" else "sigma": "wrong too"})
    assert field in {violation.field for violation in request.malformed}
    assert len(request.malformed) == 2


def test_words_for_values_work_in_process(model: Any, harness: Any) -> None:
    """Fails if `fit="exact"` resizes, or a word is no value: the members are strings."""
    spelt = model.certify(harness.image(), n=100, fit="exact", arithmetic="grid", bound="binary")
    plain = model.certify(harness.image(), n=100, fit=ImageFit.EXACT, arithmetic=Arithmetic.GRID, bound=Bound.BINARY)
    assert spelt == plain


def test_a_wrong_type_harms_nobody_else(model: Any, harness: Any) -> None:
    """Fails if a float for n ends the engine for every later caller."""
    with pytest.raises(errors.InvalidRequest, match=r"n: 1000\.0 is not a whole number"):
        model.certify(harness.image(), n=1000.0)
    assert model.certify(harness.image(), n=np.int64(100)) == model.certify(harness.image(), n=100)


def test_the_outcome_names_the_nonce(model: Any, harness: Any) -> None:
    """The key depends on it: without it nobody could draw the certificate again."""
    assert model.certify(harness.image(), n=100, nonce=b"\x01\xff").setting.nonce == "01ff"
    assert model.predict(harness.image(), n=100).setting.nonce == ""
