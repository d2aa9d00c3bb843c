"""What bad input gets: all that is wrong, at once; the server goes on, and nobody else is touched."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from certserve import errors
from certserve.endpoints.plans import AnytimePlan, LooksPlan, TargetPlan
from certserve.images import ImageFit, encode_png
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Bound
from certserve.v1 import certserve_pb2 as pb

NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def undisturbed(server: Any, harness: ModuleType) -> Iterator[None]:
    """After every test the server answers a good request as it did before, and nothing is left of the bad one."""
    with server.client() as good:
        before = good.certify(harness.image())
        yield
        assert good.certify(harness.image()) == before
    assert harness.eventually(server.idle)


def fields(error: object) -> list[str]:
    """The fields of an InvalidRequest."""
    assert isinstance(error, errors.InvalidRequest), error
    return [violation.field for violation in error.violations]


def floats(value: float) -> Any:
    """A float32 tensor on the grid but for one number."""
    pixels = np.zeros((1, 4, 4), np.float32)
    pixels[0, 1, 1] = value
    return pixels


def png(width: int, height: int) -> bytes:
    """A PNG header that promises so many pixels, and the end of the file."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


GOOD_PNG = encode_png(np.full((1, 4, 4), 200, np.uint8), "grey")
HALF_JPEG = b"\xff\xd8\xff\xe0" + bytes(40)

PARAMETERS = [
    *[("sigma", value) for value in (0.0, -1.0, 0.3, NAN, INF)],
    *[("alpha", value) for value in (0.0, 1.0, -0.5, 2.0, NAN, INF, 1e-300)],
    *[("n", value) for value in (0, -1, 10**7 + 1, 10**9, 2**63 - 1, 2**63)],
]
IMAGES = {
    "garbage": b"certainly no image",
    "empty": b"",
    "truncated PNG": GOOD_PNG[:-20],
    "header only": GOOD_PNG[:30],
    "corrupt PNG": GOOD_PNG[:45] + bytes([GOOD_PNG[45] ^ 255]) + GOOD_PNG[46:],
    "truncated JPEG": HALF_JPEG,
    "bomb": png(60_000, 60_000),
    "bomb beyond Pillow's own limit": png(2**31 - 1, 2**31 - 1),
    "other size": encode_png(np.zeros((1, 5, 4), np.uint8), "grey"),
    "too many bytes": bytes((16 << 20) + 1),
    "other shape": np.zeros((1, 4, 5), np.uint8),
    "three channels": np.zeros((3, 4, 4), np.uint8),
    "two axes": np.zeros((4, 4), np.uint8),
    "float64": np.zeros((1, 4, 4)),
    "int32": np.zeros((1, 4, 4), np.int32),
    "NaN": floats(NAN),
    "infinity": floats(INF),
    "minus infinity": floats(-INF),
    "above one": floats(1.5),
    "below zero": floats(-0.25),
}


class TestOneThingWrong:
    """Each kind is told by its field, by both procedures, through both clients."""

    @pytest.mark.parametrize("procedure", ["predict", "certify"])
    @pytest.mark.parametrize(("name", "value"), PARAMETERS)
    def test_a_parameter(self, client: Any, harness: ModuleType, procedure: str, name: str, value: Any) -> None:
        """The sentence repeats what was wrong with it."""
        error = harness.raised(lambda: getattr(client, procedure)(harness.image(), **{name: value}))
        assert fields(error) == [name]

    @pytest.mark.parametrize("value", [0, -1, 10**7 + 1])
    def test_selection_draws(self, client: Any, harness: ModuleType, value: int) -> None:
        """n0 has a range of its own."""
        assert fields(harness.raised(lambda: client.certify(harness.image(), n0=value))) == ["n0"]

    @pytest.mark.parametrize("procedure", ["predict", "certify"])
    @pytest.mark.parametrize("kind", IMAGES)
    def test_an_image(self, client: Any, harness: ModuleType, procedure: str, kind: str) -> None:
        """Undecodable, truncated, a bomb, of another size or type, with numbers that are none."""
        (field,) = fields(harness.raised(lambda: getattr(client, procedure)(IMAGES[kind])))
        assert field.startswith("image")

    def test_off_the_grid_in_grid_arithmetic(self, client: Any, harness: ModuleType) -> None:
        """Rounding silently would certify other pixels."""
        error = harness.raised(lambda: client.certify(floats(0.3), arithmetic=Arithmetic.GRID))
        assert fields(error) == ["image"]
        assert "1/255" in str(error)

    def test_a_tensor_is_never_resized(self, client: Any, harness: ModuleType) -> None:
        """Only encoded images are."""
        error = harness.raised(lambda: client.certify(np.zeros((1, 9, 9), np.uint8), fit=ImageFit.RESIZE_CROP))
        assert fields(error) == ["image"]

    @pytest.mark.parametrize("size", [65, 1 << 20])
    def test_a_huge_nonce(self, client: Any, harness: ModuleType, size: int) -> None:
        """64 bytes are enough."""
        assert fields(harness.raised(lambda: client.certify(harness.image(), nonce=bytes(size)))) == ["nonce"]

    def test_too_few_draws_to_certify_anything(self, client: Any, harness: ModuleType) -> None:
        """The smallest n that could is said, and it can."""
        error = harness.raised(lambda: client.certify(harness.image(255), n=9, alpha=0.001))
        assert fields(error) == ["n"]
        assert error.violations[0].description.endswith("is 10")
        client.certify(harness.image(255), n=10, alpha=0.001)

    def test_too_few_draws_to_predict_anything(self, client: Any, harness: ModuleType) -> None:
        """The same for Predict: 2 (1/2)^n <= alpha."""
        error = harness.raised(lambda: client.predict(harness.image(255), n=10, alpha=0.001))
        assert fields(error) == ["n"]
        assert error.violations[0].description.endswith("is 11")
        client.predict(harness.image(255), n=11, alpha=0.001)

    def test_an_unknown_plan(self, client: Any, harness: ModuleType) -> None:
        """A plan of a later version, or of the other procedure, or no plan: never answered as if it were another."""
        for plan in ("halving", AnytimePlan(), None):
            assert fields(harness.raised(lambda plan=plan: client.certify(harness.image(), plan=plan))) == ["plan"]
        for other in (TargetPlan(0.1), LooksPlan()):
            assert fields(harness.raised(lambda plan=other: client.predict(harness.image(), plan=plan))) == ["plan"]

    @pytest.mark.parametrize("field", ["n", "n0"])
    def test_a_number_of_draws_that_is_none(self, client: Any, harness: ModuleType, field: str) -> None:
        """Never answered with the default."""
        assert fields(harness.raised(lambda: client.certify(harness.image(), **{field: 100.0}))) == [field]

    @pytest.mark.parametrize(
        ("asked", "field", "said"),
        [
            ({"plan": TargetPlan(-0.1)}, "plan", "radii must be positive"),
            ({"plan": TargetPlan(0.1, (0.05,))}, "plan", "increas"),
            ({"plan": TargetPlan(0.1), "bound": Bound.TWO_CLASS}, "plan", "binary"),
            ({"plan": LooksPlan((200, 100)), "n": 100}, "plan", "increas"),
            ({"plan": LooksPlan((100, 300)), "n": 400}, "plan", "last look must be n = 400"),
            ({"plan": TargetPlan(0.1), "n": 3}, "n", "smallest n that could is 17"),
            ({"time_budget": 0.0}, "time_budget", "positive"),
            ({"time_budget": -1.0}, "time_budget", "positive"),
        ],
        ids=str,
    )
    def test_a_plan_that_cannot_be(
        self, client: Any, harness: ModuleType, asked: dict[str, Any], field: str, said: str
    ) -> None:
        """Named, with what would do."""
        error = harness.raised(lambda: client.certify(harness.image(), **asked))
        assert fields(error) == [field]
        assert said in str(error)

    def test_a_plan_of_the_other_procedure_on_the_wire(self, harness: ModuleType, channel: grpc.Channel) -> None:
        """As a client of another make would send it."""
        image = pb.Image(tensor=pb.Tensor(data=bytes(16), shape=[1, 4, 4], dtype=pb.DATA_TYPE_UINT8))
        message = pb.CertifyRequest(image=image, plan=pb.Plan(anytime=pb.AnytimePlan()))
        with pytest.raises(grpc.RpcError) as caught:
            harness.stub(channel).Certify(message, timeout=harness.PATIENCE)
        assert "AnytimePlan is for Predict" in str(caught.value.details())

    @pytest.mark.parametrize("procedure", ["predict", "certify", "get_model"])
    def test_an_unknown_model(self, client: Any, harness: ModuleType, procedure: str) -> None:
        """The models there are, named."""

        def ask() -> Any:
            if procedure == "get_model":
                return client.get_model("hlaf")
            return getattr(client, procedure)(harness.image(), model="hlaf")

        error = harness.raised(ask)
        assert isinstance(error, errors.ModelNotFound)
        assert (error.name, error.available) == ("hlaf", ("half", "waves"))

    @pytest.mark.parametrize("name", ["x" * 200_000, "\x00", "名" * 5000, "../half", "HALF"])
    def test_a_model_name_of_any_kind(self, client: Any, harness: ModuleType, name: str) -> None:
        """An error that does not fit into the trailers would reach the caller as a failure of the transport."""
        error = harness.raised(lambda: client.get_model(name))
        assert isinstance(error, errors.ModelNotFound)
        assert error.available == ("half", "waves")


class TestManyThingsWrong:
    """All in one answer: nobody corrects a request eight times."""

    def test_certify(self, client: Any, harness: ModuleType) -> None:
        """Parameters and image together."""
        error = harness.raised(
            lambda: client.certify(
                np.full((1, 5, 5), NAN, np.float32), sigma=-1.0, n0=0, n=10**9, alpha=1.0, nonce=bytes(65)
            )
        )
        assert sorted(fields(error)) == ["alpha", "image", "image", "n", "n0", "nonce", "sigma"]

    def test_predict(self, client: Any, harness: ModuleType) -> None:
        """The same for Predict."""
        error = harness.raised(lambda: client.predict(b"junk", sigma=NAN, n=0, alpha=0.0, nonce=bytes(65)))
        assert sorted(fields(error)) == ["alpha", "image", "n", "nonce", "sigma"]

    def test_malformed_and_wrong(self, harness: ModuleType, channel: grpc.Channel) -> None:
        """What the message gets wrong on its own is named beside the rest, as google.rpc.BadRequest."""
        message = pb.CertifyRequest(
            image=pb.Image(tensor=pb.Tensor(data=b"123", shape=[1, 4, 4], dtype=pb.DATA_TYPE_UINT8)),
            plan=pb.Plan(anytime=pb.AnytimePlan()),
            sigma=0.0,
            n0=-1,
            n=0,
            alpha=NAN,
            nonce=bytes(70),
        )
        number = pb.CertifyRequest.DESCRIPTOR.fields_by_name["arithmetic"].number
        message.MergeFromString(bytes([number << 3, 99]))
        with pytest.raises(grpc.RpcError) as caught:
            harness.stub(channel).Certify(message, timeout=harness.PATIENCE)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        status = rpc_status.from_call(caught.value)
        bad = error_details_pb2.BadRequest()
        assert any(detail.Unpack(bad) for detail in status.details)
        named = sorted(violation.field for violation in bad.field_violations)
        assert named == ["alpha", "arithmetic", "image.tensor.data", "n", "n0", "nonce", "plan", "sigma"]
        assert all(violation.description for violation in bad.field_violations)

    @pytest.mark.parametrize("procedure", ["Predict", "Certify"])
    def test_an_empty_message(self, harness: ModuleType, channel: grpc.Channel, procedure: str) -> None:
        """Only the image is required."""
        ask = getattr(harness.stub(channel), procedure)
        message = pb.PredictRequest() if procedure == "Predict" else pb.CertifyRequest()
        with pytest.raises(grpc.RpcError) as caught:
            ask(message, timeout=harness.PATIENCE)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "image: is missing" in (caught.value.details() or "")


class TestTheTransport:
    """What never becomes a request."""

    def test_bytes_that_are_no_message(self, channel: grpc.Channel) -> None:
        """The caller's fault, said as such, with a request id as every error has."""
        call: Any = channel.unary_unary("/certserve.v1.CertServe/Certify")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff\xff", timeout=60)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        trailers: Any = caught.value.trailing_metadata()
        assert "x-request-id" in dict(trailers)

    def test_an_unknown_method(self, channel: grpc.Channel) -> None:
        """A procedure of a later version."""
        call: Any = channel.unary_unary("/certserve.v1.CertServe/Attack")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_a_message_over_64_mebibytes_is_refused_by_the_client(self, client: Any, harness: ModuleType) -> None:
        """Nothing is sent."""
        error = harness.raised(lambda: client.certify(bytes((64 << 20) + 1)))
        assert fields(error) == ["image"]
        assert "too large" in str(error)

    def test_a_message_larger_than_any_image_is_refused_by_the_server(
        self, harness: ModuleType, channel: grpc.Channel
    ) -> None:
        """Whatever the client allows itself: nothing larger than the largest image (16 MiB) and 64 KiB is taken in."""
        message = pb.PredictRequest(image=pb.Image(encoded=bytes((16 << 20) + (64 << 10))))
        with pytest.raises(grpc.RpcError) as caught:
            harness.stub(channel).Predict(message, timeout=harness.PATIENCE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_a_tensor_of_a_million_axes(self, harness: ModuleType, channel: grpc.Channel) -> None:
        """The answer fits into the trailers."""
        tensor = pb.Tensor(data=b"1", shape=[1] * 1_000_000, dtype=pb.DATA_TYPE_UINT8)
        with pytest.raises(grpc.RpcError) as caught:
            harness.stub(channel).Predict(pb.PredictRequest(image=pb.Image(tensor=tensor)), timeout=harness.PATIENCE)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
