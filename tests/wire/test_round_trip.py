"""Whatever is written to the wire is read back as it was, through the bytes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from certserve import errors
from certserve.bundle import Defaults
from certserve.endpoints.answers import Answer, Reformation
from certserve.endpoints.plans import AnytimePlan, FixedPlan, LooksPlan, TargetPlan
from certserve.endpoints.requests import (
    CertifyRequest,
    DetectorInfo,
    DetectRequest,
    ExecutionInfo,
    FittedImage,
    MagnetInfo,
    ModelInfo,
    PredictRequest,
    ReformRequest,
)
from certserve.errors import InvalidRequest
from certserve.images import EncodedImage, ImageFit, ImageInput, RawImage
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import (
    Abstention,
    Bound,
    Certificate,
    Origin,
    Prediction,
    Rejected,
    Schedule,
    Setting,
    Space,
    Undecided,
    Votes,
)
from certserve.smoothing.verdicts import DetectorVerdict, Verdict
from certserve.v1 import certserve_pb2 as pb
from certserve.wire import magnet, outcomes, requests

EXAMPLES = settings(deadline=None, max_examples=60)

texts = st.text(st.characters(codec="utf-8"), max_size=12)
int64s = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
floats = st.floats(allow_nan=False)
labels = st.integers(0, 2**31 - 1)
shapes = st.tuples(*[st.integers(1, 4)] * 3)

raw_images = st.one_of(
    shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape)),
    shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(allow_nan=False, width=32))),
).map(RawImage)
sent_images: st.SearchStrategy[tuple[ImageInput | None, ImageFit]] = st.one_of(
    st.tuples(st.one_of(raw_images, st.binary(max_size=40).map(EncodedImage)), st.sampled_from(ImageFit)),
    st.just((None, ImageFit.EXACT)),  # the fit is part of the image
)
shared_fields: dict[str, st.SearchStrategy[Any]] = {
    "model": texts,
    "sigma": st.none() | floats,
    "n0": st.none() | int64s,
    "n": st.none() | int64s,
    "alpha": st.none() | floats,
    "time_budget": st.none() | st.integers(-(10**9), 10**9).map(float),
    "arithmetic": st.none() | st.sampled_from(Arithmetic),
    "nonce": st.binary(max_size=80),
    "guard": st.booleans(),
}
certify_plans = st.one_of(
    st.just(FixedPlan()),
    st.builds(TargetPlan, floats, st.lists(floats, max_size=3).map(tuple)),
    st.builds(LooksPlan, st.lists(int64s, max_size=3).map(tuple), st.none() | floats),
)
predict_requests = sent_images.flatmap(
    lambda sent: st.builds(
        PredictRequest,
        image=st.just(sent[0]),
        fit=st.just(sent[1]),
        plan=st.sampled_from([FixedPlan(), AnytimePlan()]),
        **shared_fields,
    )
)
certify_requests = sent_images.flatmap(
    lambda sent: st.builds(
        CertifyRequest,
        image=st.just(sent[0]),
        fit=st.just(sent[1]),
        plan=certify_plans,
        bound=st.sampled_from(Bound),
        **shared_fields,
    )
)

votes = st.builds(Votes, st.lists(counts, max_size=4).map(tuple), counts)
looks_of_votes = st.lists(votes, max_size=3).map(tuple)
tested_settings = st.builds(
    Setting,
    sigma=floats,
    n0=int64s,
    n=int64s,
    alpha=floats,
    plan=texts,
    looks=st.lists(int64s, max_size=3).map(tuple),
    bound=st.sampled_from(Bound),
    arithmetic=st.sampled_from([arithmetic.value for arithmetic in Arithmetic]),
    stream=texts,
    arithmetic_error=floats,
    nonce=texts,
    schedule=st.builds(
        Schedule,
        every=int64s,
        alphas=st.lists(floats, max_size=3).map(tuple),
        runner_up_alphas=st.lists(floats, max_size=3).map(tuple),
        radii=st.lists(floats, max_size=3).map(tuple),
        precision=floats,
    ),
)
origins = st.builds(
    Origin,
    *[texts] * 5,
    st.builds(Space, texts, st.lists(int64s, max_size=4).map(tuple), texts, texts),
)
signatures = st.binary(max_size=64)
# A statement is derived from the outcome and goes along, so p_lower and the radius are numbers it can print.
printable = st.floats(0.0, 1.0, exclude_min=True)
certificates = st.builds(
    Certificate,
    labels,
    texts,
    printable,
    texts,
    floats,
    votes,
    looks_of_votes,
    tested_settings,
    origins,
    p_upper=floats,
    log_e_values=st.lists(floats, max_size=3).map(tuple),
    signature=signatures,
)
predictions = st.builds(
    Prediction,
    labels,
    texts,
    floats,
    votes,
    tested_settings,
    origins,
    selection=votes,
    reselections=looks_of_votes,
    signature=signatures,
)
abstentions = st.builds(
    Abstention,
    labels,
    texts,
    votes,
    st.lists(votes, min_size=1, max_size=3).map(tuple),
    tested_settings,
    origins,
    p_upper=printable,
    radius=printable | st.just(0.0),
    p_lower=st.none() | printable | st.just(0.0),
    p_value=st.none() | printable | st.just(0.0),
    signature=signatures,
)
undecideds = st.builds(Undecided, texts, tested_settings, origins, signatures)
rates = st.floats(0.0, 1.0)
detector_verdicts = st.builds(DetectorVerdict, texts, floats, floats, rates, st.booleans(), rates, int64s)
several_verdicts = st.lists(detector_verdicts, min_size=1, max_size=3).map(tuple)
rejections = st.builds(Rejected, several_verdicts, tested_settings, origins, signatures)
model_infos = st.builds(
    ModelInfo,
    name=texts,
    version=texts,
    description=texts,
    labels=st.lists(texts, max_size=4).map(tuple),
    shape=st.lists(int64s, max_size=4).map(tuple),
    colour=texts,
    resize=int64s,
    sigmas=st.lists(floats, max_size=3).map(tuple),
    defaults=st.builds(
        Defaults,
        floats,
        *[st.integers(1, 10**7)] * 2,
        st.floats(0.0, 1.0, exclude_min=True, exclude_max=True),
        st.integers(1, 10**7),
    ),
    largest_n=int64s,
    execution=st.builds(ExecutionInfo, *[texts] * 5, st.lists(int64s, max_size=3).map(tuple)),
    commitment=texts,
    public_key=st.binary(max_size=40),
    robustify=st.booleans(),
    largest_passes=int64s,
    surrogate=st.booleans(),
    magnet=st.none()
    | st.builds(MagnetInfo, st.lists(st.builds(DetectorInfo, texts, floats), max_size=3).map(tuple), floats, texts),
)
batches = st.lists(sent_images.map(lambda sent: FittedImage(*sent)), max_size=3).map(tuple)
answers = st.builds(Answer, labels, texts)
reformations = st.builds(
    Reformation,
    shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))).map(RawImage),
    st.binary(max_size=9),
    answers,
    answers,
    floats,
    floats,
)


class TestRequests:
    """What a client asks is what the endpoint is asked."""

    @EXAMPLES
    @given(request=predict_requests)
    def test_predict(self, request: PredictRequest) -> None:
        """A field that the wire forgets, or fills in where the caller left it out, fails."""
        sent = requests.predict_request_to_wire(request).SerializeToString()
        assert requests.predict_request_from_wire(pb.PredictRequest.FromString(sent)) == request

    @EXAMPLES
    @given(request=certify_requests)
    def test_certify(self, request: CertifyRequest) -> None:
        """The same for Certify."""
        sent = requests.certify_request_to_wire(request).SerializeToString()
        assert requests.certify_request_from_wire(pb.CertifyRequest.FromString(sent)) == request

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_pixels_in_any_memory_order_arrive_in_the_protocols_order(self, dtype: str) -> None:
        """A transposed view that is sent in its memory's order fails."""
        pixels = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).astype(dtype, order="K")
        assert not pixels.flags.c_contiguous
        message = requests.predict_request_to_wire(PredictRequest(image=RawImage(pixels)))
        assert list(message.image.tensor.shape) == [4, 2, 3]
        assert message.image.tensor.data == pixels.copy(order="C").tobytes()

    def test_zero_is_not_left_out(self) -> None:
        """0 and 0.0 are what the caller said, not a request for the default."""
        certify = CertifyRequest(image=None, sigma=0.0, n=0, n0=0, alpha=0.0)
        assert requests.certify_request_from_wire(requests.certify_request_to_wire(certify)) == certify
        predict = PredictRequest(image=None, sigma=0.0, n=0, alpha=0.0)
        assert requests.predict_request_from_wire(requests.predict_request_to_wire(predict)) == predict

    def test_a_nan_is_sent_as_it_is(self) -> None:
        """A NaN that disappears on the way would be answered as if it were the default."""
        read = requests.predict_request_from_wire(
            requests.predict_request_to_wire(PredictRequest(image=None, sigma=math.nan, alpha=math.nan))
        )
        assert read.sigma is not None
        assert read.alpha is not None
        assert math.isnan(read.sigma)
        assert math.isnan(read.alpha)

    @pytest.mark.parametrize("dtype", ["float64", "int32", ">f4", "bool"])
    def test_a_dtype_that_the_protocol_lacks_is_refused(self, dtype: str) -> None:
        """Converting silently would certify other pixels than the caller's."""
        with pytest.raises(InvalidRequest) as caught:
            requests.predict_request_to_wire(PredictRequest(image=RawImage(np.zeros((1, 2, 2), dtype))))
        assert [violation.field for violation in caught.value.violations] == ["image"]

    @pytest.mark.parametrize(
        ("asked", "field"),
        [
            ({"plan": LooksPlan((2**63,))}, "plan.looks.looks"),
            ({"time_budget": math.inf}, "time_budget"),
            ({"time_budget": math.nan}, "time_budget"),
            ({"time_budget": 1e300}, "time_budget"),
        ],
        ids=str,
    )
    def test_a_plan_that_the_protocol_cannot_carry_is_refused(self, asked: dict[str, Any], field: str) -> None:
        """A plan sent as another one would answer another question."""
        with pytest.raises(InvalidRequest) as caught:
            requests.certify_request_to_wire(CertifyRequest(image=None, **asked))
        assert [violation.field for violation in caught.value.violations] == [field]

    def test_a_kind_of_plan_that_is_not_known_is_refused(self) -> None:
        """Taken for the fixed plan because a time budget is beside it, it would answer another question."""
        for more in (b"", pb.Plan(time_budget={"seconds": 1}).SerializeToString()):
            message = pb.CertifyRequest(plan=pb.Plan.FromString(more + b"\xfa\x07\x02hi"))
            (wrong,) = requests.certify_request_from_wire(message).malformed
            assert (wrong.field, wrong.description) == ("plan", "has a kind that this version does not know")

    @pytest.mark.parametrize(
        ("plan", "fits"),
        [
            (TargetPlan(0.1, tuple(0.1 + k for k in range(1, 100))), True),
            (TargetPlan(0.1, tuple(0.1 + k for k in range(1, 101))), False),
            (LooksPlan(tuple(range(1, 101))), True),
            (LooksPlan(tuple(range(1, 102))), False),
        ],
    )
    def test_a_plan_names_a_hundred_steps_at_most(self, plan: Any, fits: bool) -> None:
        """Each costs time on the event loop; a message has room for millions."""
        sent = requests.certify_request_to_wire(CertifyRequest(image=None, plan=plan)).SerializeToString()
        found = requests.certify_request_from_wire(pb.CertifyRequest.FromString(sent))
        assert (found.plan == plan) is fits
        assert [violation.field for violation in found.malformed] == ([] if fits else ["plan"])

    @pytest.mark.parametrize("seconds", [1e-9, 0.1, 0.05, 1.0, 86_400.0, -1.0, 0.0])
    def test_a_time_budget_arrives_to_the_nanosecond(self, seconds: float) -> None:
        """Zero and less too: the endpoint names them."""
        for plan in (FixedPlan(), TargetPlan(0.25), LooksPlan()):
            request = CertifyRequest(image=None, plan=plan, time_budget=seconds)
            sent = requests.certify_request_to_wire(request).SerializeToString()
            assert requests.certify_request_from_wire(pb.CertifyRequest.FromString(sent)) == request

    @pytest.mark.parametrize("name", ["n", "n0"])
    @pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
    def test_draws_that_an_int64_cannot_hold_are_refused(self, name: str, value: int) -> None:
        """The caller learns of it as of any other number out of range, whichever face was asked."""
        request = replace(CertifyRequest(image=None), **{name: value})  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as caught:
            requests.certify_request_to_wire(request)
        assert [violation.field for violation in caught.value.violations] == [name]


class TestOutcomes:
    """What an endpoint answers is what the client gets."""

    @EXAMPLES
    @given(outcome=st.one_of(certificates, abstentions, undecideds, rejections), seconds=floats)
    def test_certify(self, outcome: Certificate | Abstention | Undecided | Rejected, seconds: float) -> None:
        """A field that is lost, defaulted or mixed up with another fails."""
        sent = outcomes.certify_outcome_to_wire(outcome, seconds).SerializeToString()
        reply = pb.CertifyResponse.FromString(sent)
        read = outcomes.certify_outcome_from_wire(reply)
        assert (read, read.signature) == (outcome, outcome.signature)
        assert reply.seconds == seconds

    @EXAMPLES
    @given(outcome=st.one_of(predictions, abstentions, undecideds, rejections), seconds=floats)
    def test_predict(self, outcome: Prediction | Abstention | Undecided | Rejected, seconds: float) -> None:
        """The same for Predict."""
        sent = outcomes.predict_outcome_to_wire(outcome, seconds).SerializeToString()
        reply = pb.PredictResponse.FromString(sent)
        read = outcomes.predict_outcome_from_wire(reply)
        assert (read, read.signature) == (outcome, outcome.signature)
        assert reply.seconds == seconds

    @EXAMPLES
    @given(outcome=certificates)
    def test_the_statement_goes_along(self, outcome: Certificate) -> None:
        """Callers in other languages have no other sentence of what is guaranteed."""
        reply = outcomes.certify_outcome_to_wire(outcome, 0.0)
        assert reply.certificate.statement == outcome.statement

    def test_a_rejection_of_no_detector_is_refused(self) -> None:
        """It would have no reason."""
        reply = pb.CertifyResponse(rejected=pb.Rejected())
        with pytest.raises(errors.InternalError, match="no detector"):
            outcomes.certify_outcome_from_wire(reply)

    def test_a_reply_without_an_outcome_is_refused(self) -> None:
        """A kind of outcome of a later version must not be read as one of ours."""
        with pytest.raises(errors.InternalError, match="update certserve"):
            outcomes.certify_outcome_from_wire(pb.CertifyResponse(seconds=1.0))
        with pytest.raises(errors.InternalError, match="update certserve"):
            outcomes.predict_outcome_from_wire(pb.PredictResponse(seconds=1.0))


class TestMagnet:
    """Batches of images, and what becomes of them."""

    @EXAMPLES
    @given(request=st.builds(DetectRequest, images=batches, model=texts))
    def test_detect(self, request: DetectRequest) -> None:
        """Every image keeps its place and its fit."""
        sent = magnet.detect_request_to_wire(request).SerializeToString()
        assert magnet.detect_request_from_wire(pb.DetectRequest.FromString(sent)) == request

    @EXAMPLES
    @given(request=st.builds(ReformRequest, images=batches, model=texts, png=st.booleans()))
    def test_reform(self, request: ReformRequest) -> None:
        """The same for Reform."""
        sent = magnet.reform_request_to_wire(request).SerializeToString()
        assert magnet.reform_request_from_wire(pb.ReformRequest.FromString(sent)) == request

    @EXAMPLES
    @given(found=st.lists(several_verdicts.map(Verdict), max_size=3))
    def test_verdicts(self, found: list[Verdict]) -> None:
        """What follows from the detectors' goes along, for callers in other languages."""
        reply = pb.DetectResponse.FromString(magnet.verdicts_to_wire(found, 1.5).SerializeToString())
        assert magnet.verdicts_from_wire(reply) == tuple(found)
        assert reply.seconds == 1.5
        for message, verdict in zip(reply.verdicts, found, strict=True):
            assert (message.flagged, message.p_value) == (verdict.flagged, verdict.p_value)
            assert (message.rate, message.statement) == (verdict.rate, verdict.statement)

    def test_a_verdict_of_no_detector_is_refused(self) -> None:
        """It would say that the image is not flagged."""
        with pytest.raises(errors.InternalError, match="no detector"):
            magnet.verdicts_from_wire(pb.DetectResponse(verdicts=[pb.Verdict(flagged=True)]))

    @EXAMPLES
    @given(found=st.lists(reformations, max_size=3).map(tuple))
    def test_reformations(self, found: tuple[Reformation, ...]) -> None:
        """Pixels bit for bit, and all beside them; the pixels are the caller's to write to."""
        reply = pb.ReformResponse.FromString(magnet.reformations_to_wire(found, 2.5).SerializeToString())
        read = magnet.reformations_from_wire(reply)
        assert read == found
        assert all(reformation.image.pixels.flags.writeable for reformation in read)
        assert reply.seconds == 2.5

    def test_what_is_wrong_is_named_with_its_place(self) -> None:
        """Each image of the message by its number."""
        images = [
            pb.Image(),
            pb.Image(tensor=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 2, 2], data=b"123")),
            pb.Image(fit=9),  # type: ignore[arg-type]
        ]
        malformed = magnet.detect_request_from_wire(pb.DetectRequest(images=images)).malformed
        assert [violation.field for violation in malformed] == ["images[1].tensor.data", "images[2].fit"]


class TestModels:
    """What a server says of its models."""

    @EXAMPLES
    @given(info=model_infos)
    def test_model(self, info: ModelInfo) -> None:
        """A field that is lost or mixed up with another fails."""
        sent = requests.model_to_wire(info).SerializeToString()
        assert requests.model_from_wire(pb.Model.FromString(sent)) == info


@given(outcome=undecideds)
def test_a_value_of_a_later_version_is_one_of_our_errors(outcome: Undecided) -> None:
    """A bound that this version does not know must not raise whatever a lookup raises."""
    reply = outcomes.certify_outcome_to_wire(outcome, 0.0)
    reply.undecided.setting.bound = 99  # type: ignore[assignment]
    with pytest.raises(errors.InternalError, match="update certserve"):
        outcomes.certify_outcome_from_wire(reply)
