"""Robustify on the wire: what is written is read back as it was, and what a message gets wrong is named."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certserve.attacks.norms import Norm
from certserve.defences.preemptive.methods import Bilevel, Budget, CertMargin, Fast, Method, Qualities
from certserve.endpoints.answers import Robustified
from certserve.endpoints.requests import RobustifyRequest
from certserve.errors import InternalError, InvalidRequest
from certserve.images import EncodedImage, ImageFit, RawImage
from certserve.smoothing.outcomes import (
    Abstention,
    Bound,
    Certificate,
    Origin,
    Prediction,
    Setting,
    Space,
    Votes,
)
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.robustify import (
    robustified_from_wire,
    robustified_to_wire,
    robustify_request_from_wire,
    robustify_request_to_wire,
)

EXAMPLES = settings(deadline=None, max_examples=60)

floats = st.floats(allow_nan=False)
int64s = st.integers(-(2**63), 2**63 - 1)
positive = st.floats(0.0, 1e6, exclude_min=True)
counts = st.integers(1, 2**63 - 1)
searches = st.one_of(
    st.builds(
        CertMargin,
        steps=counts,
        draws=counts,
        refinements=st.integers(0, 2**63 - 1),
        step=positive,
        enough=positive | st.just(math.inf),
        jpeg=st.none()
        | st.lists(st.integers(1, 95), min_size=2, max_size=2).map(lambda pair: Qualities(*sorted(pair))),
    ),
    st.builds(
        Bilevel, steps=counts, inner_steps=counts, draws=counts, rate=st.none() | positive, enough=st.floats(0, 1e6)
    ),
    st.builds(Fast, draws=counts, attack_steps=counts),
)
requests = st.builds(
    RobustifyRequest,
    image=st.sampled_from([EncodedImage(b"file"), RawImage(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))]),
    fit=st.sampled_from(ImageFit),
    delta=st.none() | floats,
    epsilon=st.none() | floats,
    norm=st.sampled_from(Norm),
    method=st.sampled_from(Method) | searches,
    model=st.text(st.characters(codec="utf-8"), max_size=9),
    sigma=st.none() | floats,
    n0=st.none() | int64s,
    n=st.none() | int64s,
    alpha=st.none() | floats,
    bound=st.sampled_from(Bound),
    nonce=st.binary(max_size=80),
)

SETTING = Setting(
    sigma=0.25,
    n0=10,
    n=100,
    alpha=0.01,
    plan="fixed",
    looks=(100,),
    bound=Bound.BINARY,
    arithmetic="grid",
    stream="s",
    arithmetic_error=0.0,
    nonce="",
)
ORIGIN = Origin("m", "1", "e", "f" * 64, "c" * 64, Space("as decoded", (3, 2, 2), "pixels in [0, 1]", "d" * 64))
NONE = Votes((0, 0), 0)
PREDICTED = Prediction(1, "b", 1e-9, Votes((1, 99), 0), SETTING, ORIGIN, signature=b"p")
ABSTAINED = Abstention(1, "b", Votes((4, 6), 0), (Votes((50, 50), 0),), SETTING, ORIGIN, p_lower=0.4)
CERTIFIED = Certificate(1, "b", 0.5, "L2", 0.97, Votes((0, 10), 0), (Votes((0, 100), 0),), SETTING, ORIGIN)


def moved(**changes: Any) -> Robustified:
    """What came of an image."""
    values: dict[str, Any] = {
        "pixels": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
        "png": b"png",
        "budget": Budget(norm=Norm.L2, delta=0.5, epsilon=0.25),
        "method": CertMargin(steps=3),
        "l2": 0.49,
        "linf": 0.03,
        "predicted_before": PREDICTED,
        "predicted_after": PREDICTED,
        "before": ABSTAINED,
        "after": CERTIFIED,
        "judged_safe": True,
        "passes": 96,
    }
    return Robustified(**{**values, **changes})


def message_of(found: Robustified) -> pb.RobustifyResponse:
    return pb.RobustifyResponse.FromString(robustified_to_wire(found, 1.5).SerializeToString())


@EXAMPLES
@given(requests)
def test_a_request_is_read_back_as_it_was(request: RobustifyRequest) -> None:
    sent = robustify_request_to_wire(request).SerializeToString()
    assert robustify_request_from_wire(pb.RobustifyRequest.FromString(sent)) == request


def test_nothing_said_is_the_default() -> None:
    assert robustify_request_from_wire(pb.RobustifyRequest()) == RobustifyRequest(image=None)
    settings_left_out = pb.RobustifyRequest(method=pb.Search(bilevel=pb.BilevelSearch(steps=3)))
    assert robustify_request_from_wire(settings_left_out).method == Bilevel(steps=3)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.RobustifyRequest(method=pb.Search(cert_margin=pb.CertMarginSearch(steps=0))), "method"),
        (
            pb.RobustifyRequest(method=pb.Search(cert_margin=pb.CertMarginSearch(jpeg=pb.JpegQualities(lowest=9)))),
            "method",
        ),
        (pb.RobustifyRequest(method=pb.Search(bilevel=pb.BilevelSearch(rate=-1.0))), "method"),
        (pb.RobustifyRequest(method=pb.Search(fast=pb.FastSearch(draws=-1))), "method"),
        (pb.RobustifyRequest.FromString(bytes([5 << 3, 9])), "norm"),
        (pb.RobustifyRequest.FromString(bytes([11 << 3, 9])), "bound"),
        (pb.RobustifyRequest(image=pb.Image(tensor=pb.Tensor(shape=[1]))), "image.tensor.dtype"),
    ],
)
def test_what_a_message_gets_wrong_is_named(message: pb.RobustifyRequest, field: str) -> None:
    assert [violation.field for violation in robustify_request_from_wire(message).malformed] == [field]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"method": "best"}, "method"), ({"n": 2**63}, "n"), ({"method": Fast(draws=2**63)}, "method")],
)
def test_what_the_protocol_cannot_carry_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        robustify_request_to_wire(RobustifyRequest(image=EncodedImage(b""), delta=0.5, **change))
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": Budget(norm=Norm.LINF, delta=0.03, epsilon=0.05), "method": Fast(), "judged_safe": False},
        {"method": Bilevel(rate=None), "before": CERTIFIED, "after": ABSTAINED},
        {"predicted_before": ABSTAINED, "method": Bilevel(rate=0.1, enough=0.5)},
    ],
)
def test_a_result_is_read_back_as_it_was(changes: dict[str, Any]) -> None:
    found = moved(**changes)
    message = message_of(found)
    again = robustified_from_wire(message)
    for field in dataclasses.fields(Robustified):
        if field.name != "pixels":
            assert getattr(again, field.name) == getattr(found, field.name), field.name
    assert np.array_equal(again.pixels, found.pixels)
    again.pixels[0, 0, 0] = 7  # an array of one's own
    assert message.seconds == 1.5
    for name in ("label_kept", "success", "radius_before", "radius_after"):
        assert getattr(message, name) == getattr(found, name)
    assert message.HasField("uplift_efficiency") == (found.budget.norm is Norm.L2)
    if found.uplift_efficiency is not None:
        assert message.uplift_efficiency == found.uplift_efficiency


@pytest.mark.parametrize("field", ["tensor", "method", "predicted_before", "predicted_after", "before", "after"])
def test_a_result_that_lacks_something_is_none(field: str) -> None:
    message = message_of(moved())
    message.ClearField(field)
    with pytest.raises(InternalError):
        robustified_from_wire(message)


def test_a_result_without_a_budget_or_a_label_is_none() -> None:
    message = message_of(moved())
    message.delta = 0.0
    with pytest.raises(InternalError, match="positive delta"):
        robustified_from_wire(message)
    message = message_of(moved())
    message.predicted_before.CopyFrom(pb.PredictResponse(undecided=pb.Undecided()))
    message.predicted_before.undecided.setting.bound = pb.BOUND_BINARY
    message.predicted_before.undecided.setting.arithmetic = pb.ARITHMETIC_GRID
    with pytest.raises(InternalError, match="no label to keep"):
        robustified_from_wire(message)
