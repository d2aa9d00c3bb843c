"""What a message gets wrong on its own is named, never raised, and never read as something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certserve.endpoints.plans import FixedPlan
from certserve.endpoints.requests import CertifyRequest, PredictRequest
from certserve.errors import InvalidRequest
from certserve.images import ImageFit, RawImage
from certserve.smoothing.outcomes import Bound
from certserve.v1 import certserve_pb2 as pb
from certserve.wire.requests import (
    certify_request_from_wire,
    certify_request_to_wire,
    predict_request_from_wire,
    predict_request_to_wire,
)

Read = Callable[[Any], PredictRequest | CertifyRequest]

BOTH = pytest.mark.parametrize(
    ("kind", "read"),
    [(pb.PredictRequest, predict_request_from_wire), (pb.CertifyRequest, certify_request_from_wire)],
    ids=["predict", "certify"],
)
UINT8, FLOAT32 = pb.DATA_TYPE_UINT8, pb.DATA_TYPE_FLOAT32
PIXELS = bytes(range(6))


def tensor(data: bytes = PIXELS, shape: Sequence[int] = (1, 2, 3), dtype: Any = UINT8) -> pb.Image:
    """An image of numbers: a good one, unless told otherwise."""
    return pb.Image(tensor=pb.Tensor(data=data, shape=shape, dtype=dtype))


def fields(request: PredictRequest | CertifyRequest) -> list[str]:
    """What is said to be wrong."""
    return [violation.field for violation in request.malformed]


def with_unknown_enum(message: Any, number: int, value: int) -> Any:
    """The message with an enum field set on the wire to a value of a later version."""
    assert value < 128
    return type(message).FromString(message.SerializeToString() + bytes([number << 3, value]))


@BOTH
class TestTensors:
    """Shape, type and bytes have to fit each other."""

    def test_a_good_one_is_read(self, kind: Any, read: Read) -> None:
        """The array has the shape and the numbers that were sent."""
        request = read(kind(image=tensor()))
        assert request.malformed == ()
        assert request.image == RawImage(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))

    @pytest.mark.parametrize(
        ("dtype", "size"), [(UINT8, 0), (UINT8, 5), (UINT8, 7), (FLOAT32, 6), (FLOAT32, 23), (FLOAT32, 25)]
    )
    def test_a_wrong_number_of_bytes(self, kind: Any, read: Read, dtype: Any, size: int) -> None:
        """Too few would be filled up or fail, too many would be cut."""
        request = read(kind(image=tensor(bytes(size), dtype=dtype)))
        assert request.image is None
        assert fields(request) == ["image.tensor.data"]
        assert f"{size} bytes" in request.malformed[0].description
        assert str(24 if dtype == FLOAT32 else 6) in request.malformed[0].description

    @pytest.mark.parametrize(
        "shape", [(), (6,), (2, 3), (1, 1, 2, 3), (0, 2, 3), (1, -2, -3), (-1, 2, 3), (1, 2, -(2**63))]
    )
    def test_a_shape_that_is_none(self, kind: Any, read: Read, shape: tuple[int, ...]) -> None:
        """Missing, of another rank, zero, or negative with a positive product."""
        request = read(kind(image=tensor(shape=shape)))
        assert request.image is None
        assert fields(request) == ["image.tensor.shape"]

    def test_a_shape_whose_product_overflows_64_bits(self, kind: Any, read: Read) -> None:
        """2^63 * 2^63 would be 0 in int64, and an empty tensor would fill it."""
        request = read(kind(image=tensor(b"", (1, 2**62, 2**62))))
        assert fields(request) == ["image.tensor.data"]

    @pytest.mark.parametrize("dtype", [pb.DATA_TYPE_UNSPECIFIED, 99])
    def test_an_unknown_type(self, kind: Any, read: Read, dtype: int) -> None:
        """A type of a later version must not be read as bytes."""
        image = tensor(dtype=pb.DATA_TYPE_UNSPECIFIED)
        if dtype:
            image.tensor.CopyFrom(with_unknown_enum(image.tensor, 3, dtype))
        request = read(kind(image=image))
        assert request.image is None
        assert fields(request) == ["image.tensor.dtype"]

    def test_a_description_stays_short_whatever_the_shape(self, kind: Any, read: Read) -> None:
        """Errors travel in trailers, which gRPC cuts off at a few kilobytes."""
        request = read(kind(image=tensor(shape=[2**62] * 100_000)))
        assert fields(request) == ["image.tensor.shape"]
        assert len(request.malformed[0].description) < 500


@BOTH
class TestEnums:
    """A value of a later version is named; zero means that the caller left it out."""

    def test_left_out(self, kind: Any, read: Read) -> None:
        """Nothing is wrong with a message that says nothing."""
        request = read(kind(image=tensor()))
        assert request.malformed == ()
        assert (request.fit, request.arithmetic) == (ImageFit.EXACT, None)

    def test_unknown_fit(self, kind: Any, read: Read) -> None:
        """Reading it as EXACT would refuse or accept another image than the caller meant."""
        assert fields(read(kind(image=with_unknown_enum(tensor(), 3, 77)))) == ["image.fit"]

    def test_unknown_arithmetic(self, kind: Any, read: Read) -> None:
        """Reading it as the default would answer another question."""
        number = kind.DESCRIPTOR.fields_by_name["arithmetic"].number
        request = read(with_unknown_enum(kind(image=tensor()), number, 77))
        assert fields(request) == ["arithmetic"]
        assert "77" in request.malformed[0].description

    def test_everything_at_once(self, kind: Any, read: Read) -> None:
        """The caller learns of all of it in one answer."""
        number = kind.DESCRIPTOR.fields_by_name["arithmetic"].number
        message = with_unknown_enum(kind(image=with_unknown_enum(tensor(b"short"), 3, 77)), number, 77)
        assert set(fields(read(message))) == {"image.tensor.data", "image.fit", "arithmetic"}


@BOTH
@pytest.mark.parametrize("image", [None, pb.Image(), pb.Image(fit=pb.IMAGE_FIT_RESIZE_CROP)])
def test_no_image(kind: Any, read: Read, image: pb.Image | None) -> None:
    """No image is no image, for the endpoint to name; not an empty file."""
    assert read(kind(image=image)).image is None


class TestCertify:
    """What only Certify has."""

    def test_unknown_bound(self) -> None:
        """Reading it as BINARY would bound what the caller did not ask for."""
        message = with_unknown_enum(pb.CertifyRequest(image=tensor()), 7, 77)
        assert fields(certify_request_from_wire(message)) == ["bound"]
        assert certify_request_from_wire(pb.CertifyRequest(image=tensor())).bound is Bound.BINARY

    def test_a_plan_without_a_kind(self) -> None:
        """A plan of a later version arrives as one without a kind that this version knows."""
        later = pb.Plan.FromString(bytes([15 << 3 | 2, 0]))
        assert fields(certify_request_from_wire(pb.CertifyRequest(image=tensor(), plan=later))) == ["plan"]
        assert fields(predict_request_from_wire(pb.PredictRequest(image=tensor(), plan=later))) == ["plan"]

    @pytest.mark.parametrize("plan", [None, pb.Plan(), pb.Plan(fixed=pb.FixedPlan())])
    def test_the_fixed_plan(self, plan: pb.Plan | None) -> None:
        """Left out or said: the same."""
        request = certify_request_from_wire(pb.CertifyRequest(image=tensor(), plan=plan))
        assert (request.plan, request.malformed) == (FixedPlan(), ())


@settings(deadline=None, max_examples=100)
@given(
    data=st.binary(max_size=40),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5), max_size=5),
    dtype=st.sampled_from([pb.DATA_TYPE_UNSPECIFIED, UINT8, FLOAT32]),
)
def test_no_tensor_raises(data: bytes, shape: list[int], dtype: Any) -> None:
    """Whatever is sent is either an image of that shape or a violation, not both and not neither."""
    request = predict_request_from_wire(pb.PredictRequest(image=tensor(data, shape, dtype)))
    if request.image is None:
        assert len(request.malformed) == 1
    else:
        assert isinstance(request.image, RawImage)
        assert request.image.pixels.shape == tuple(shape)
        assert request.image.pixels.tobytes() == data


@pytest.mark.parametrize(
    ("kind", "write"),
    [(PredictRequest, predict_request_to_wire), (CertifyRequest, certify_request_to_wire)],
    ids=["predict", "certify"],
)
def test_what_is_no_number_is_refused_before_it_is_sent(kind: Any, write: Callable[[Any], Any]) -> None:
    """Sent without it, the question would be answered as another one."""
    request = kind(image=RawImage(np.zeros((1, 2, 2), np.uint8)), n=100.0, alpha="small")
    with pytest.raises(InvalidRequest) as refusal:
        write(request)
    assert {violation.field for violation in refusal.value.violations} == {"n", "alpha"}
