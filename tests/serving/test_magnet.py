"""Detect and Reform over gRPC: the answers of `certserve.open`, in batches, refused with everything that is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest

import certserve
from certserve import errors
from certserve.bundle import Bundle
from certserve.endpoints.signatures import SigningKey
from certserve.images import ImageFit, RawImage, encode_png, on_grid
from certserve.serving.config import Address, Config, Security
from certserve.v1 import certserve_pb2 as pb

WHITE = np.full((1, 4, 4), 255, np.uint8)
GREY = np.full((1, 4, 4), 128, np.uint8)


@pytest.fixture(scope="module")
def bundle(harness: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a MagNet."""
    pytest.importorskip("onnx")
    found: Bundle = harness.guarded(tmp_path_factory.mktemp("magnet") / "guarded")
    return found


@pytest.fixture(scope="module")
def local(bundle: Bundle) -> Iterator[Any]:
    with certserve.open(bundle.path) as model:
        yield model


@pytest.fixture(scope="module")
def running(harness: ModuleType, bundle: Bundle, bundles: dict[str, Path]) -> Iterator[Any]:
    """A server of that bundle, and of one without."""
    loaded = [harness.LoadedModel.read(bundle.path, ready=True), harness.LoadedModel.read(bundles["half"])]
    with harness.Server(loaded) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def asked(request: pytest.FixtureRequest, harness: ModuleType, running: Any, loop: Any) -> Iterator[Any]:
    face = harness.face(request.param, running.target, loop)
    yield face
    face.close()


@pytest.fixture
def client(running: Any) -> Iterator[Any]:
    with running.client() as made:
        yield made


class TestDetect:
    """Verdicts."""

    def test_one_image(self, asked: Any, local: Any) -> None:
        """In whatever form it comes; what is flagged follows from its definition."""
        (verdict,) = asked.detect(WHITE)
        assert (verdict,) == local.detect(WHITE) == asked.detect(encode_png(WHITE, "grey"))
        assert verdict.flagged
        score = verdict.detectors[0]
        assert (score.name, score.score, score.p_value) == ("l1-grey", pytest.approx(0.25), 0.01)
        assert (score.threshold, score.rate, score.validation_images) == (pytest.approx(0.19, abs=0.002), 0.05, 99)
        (grey,) = asked.detect(GREY)
        assert not grey.flagged
        assert grey.p_value == 1.0
        assert (verdict.rate, len(verdict.detectors)) == (0.1, 2)

    @pytest.mark.parametrize("count", [2, 33, 256])
    def test_a_batch_is_what_its_images_are_alone(self, asked: Any, local: Any, count: int) -> None:
        """In their order, over the ends of the pieces in which they are run."""
        batch = np.arange(count * 16).reshape(count, 1, 4, 4) * 37 % 256
        found = asked.detect(batch.astype(np.uint8))
        assert len(found) == count
        assert found == local.detect(list(batch.astype(np.uint8)))
        for i in (0, count // 2, count - 1):
            assert local.detect(batch[i].astype(np.uint8)) == (found[i],)

    def test_floats_and_other_sizes(self, asked: Any) -> None:
        """As for Predict."""
        large = encode_png(np.full((1, 9, 8), 255, np.uint8), "grey")
        assert asked.detect([np.ones((1, 4, 4), np.float32)]) == asked.detect(WHITE)
        assert asked.detect(large, fit=ImageFit.RESIZE_CROP) == asked.detect(WHITE)

    def test_the_statement_claims_no_guarantee(self, asked: Any) -> None:
        """In either case."""
        for image, said in ((WHITE, "Flagged as unusual by l1-grey"), (GREY, "Flagged by no detector")):
            statement = asked.detect(image)[0].statement
            assert statement.startswith(said)
            assert statement.endswith("that proves neither tampering nor its absence.")
            assert "guarantee" not in statement


class TestReform:
    """Reformed images."""

    def test_pixels_answers_and_sizes(self, asked: Any, local: Any, harness: ModuleType) -> None:
        """x / 2 + 1/4, bit for bit, with the base classifier's labels and the size of the change."""
        image = harness.image(180)
        (found,) = asked.reform(image, png=True)
        assert (found,) == local.reform(image, png=True)
        x = (image / np.float32(255)).astype(np.float32)
        assert found.image == RawImage(x / 2 + np.float32(0.25))
        assert found.l2 == pytest.approx(np.linalg.norm(x / 2 - 0.25), rel=1e-6)
        assert found.linf == pytest.approx(np.abs(x / 2 - 0.25).max(), rel=1e-6)
        assert (
            (found.before.label, found.before.label_name) == (found.after.label, found.after.label_name) == (1, "high")
        )
        again = asked.reform(found.png)[0]
        rounded = np.rint(found.image.pixels * 255).astype(np.uint8)
        assert np.abs(again.image.pixels - (rounded / np.float32(255) / 2 + np.float32(0.25))).max() < 1e-6
        assert on_grid((rounded / np.float32(255)).astype(np.float32)) is not None

    def test_png_only_where_it_is_asked_for(self, asked: Any) -> None:
        """It costs time and bytes."""
        assert asked.reform(GREY)[0].png == b""
        assert asked.reform(GREY, png=True)[0].png.startswith(b"\x89PNG")

    def test_a_batch(self, asked: Any, local: Any) -> None:
        """In order."""
        batch = (np.arange(70 * 16).reshape(70, 1, 4, 4) * 37 % 256).astype(np.uint8)
        found = asked.reform(batch)
        assert found == local.reform(batch)
        assert found[69] == local.reform(batch[69])[0]
        assert {f.before.label_name for f in found} == {"low", "high"}


class TestModel:
    """What is known of a model."""

    def test_it_says_what_it_has(self, asked: Any, local: Any) -> None:
        """Names and rates; nothing where there is nothing."""
        magnet = asked.get_model("guarded").magnet
        assert magnet == local.get_model().magnet
        assert [(d.name, d.rate) for d in magnet.detectors] == [("l1-grey", 0.05), ("jsd10-grey", 0.05)]
        assert (magnet.rate, magnet.reformer) == (0.1, "grey")
        assert asked.get_model("half").magnet is None

    @pytest.mark.parametrize("method", ["detect", "reform"])
    def test_without_one(self, asked: Any, harness: ModuleType, running: Any, method: str) -> None:
        """A failed precondition that says what makes one."""
        error = harness.raised(lambda: getattr(asked, method)(WHITE, model="half"))
        assert type(error) is errors.Infeasible
        assert "`certserve train magnet`" in str(error)
        with grpc.insecure_channel(running.target) as channel:
            stub = harness.stub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Detect(pb.DetectRequest(model="half"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


class TestRefusals:
    """Everything that is wrong, at once."""

    @pytest.mark.parametrize("method", ["detect", "reform"])
    def test_each_image_by_its_place(self, asked: Any, harness: ModuleType, method: str) -> None:
        """Sizes, values and files, among good ones."""
        images = [WHITE, WHITE[:, :3], b"no image", np.full((1, 4, 4), 2.0, np.float32), GREY]
        error = harness.raised(lambda: getattr(asked, method)(images))
        assert [violation.field for violation in error.violations] == ["images[1]", "images[2]", "images[3]"]
        assert "must have the shape (1, 4, 4)" in error.violations[0].description

    def test_a_truncated_file(self, client: Any, harness: ModuleType) -> None:
        """Found when it is decoded."""
        png = encode_png((np.arange(16) * 16).astype(np.uint8).reshape(1, 4, 4), "grey")
        error = harness.raised(lambda: client.detect([WHITE, png[:-20]]))
        assert [violation.field for violation in error.violations] == ["images[1]"]

    @pytest.mark.parametrize("count", [0, 257])
    @pytest.mark.parametrize("method", ["detect", "reform"])
    def test_none_and_too_many(self, client: Any, harness: ModuleType, method: str, count: int) -> None:
        error = harness.raised(lambda: getattr(client, method)([WHITE] * count))
        assert [v.field for v in error.violations] == ["images"]
        assert f"must be 1 to 256, not {count}" in str(error)

    def test_many_wrong_images_fit_into_one_error(self, client: Any, harness: ModuleType) -> None:
        """Those that are not described are counted and named, as far as there is room."""
        error = harness.raised(lambda: client.detect([WHITE[:, :3]] * 256))
        assert type(error) is errors.InvalidRequest
        assert [v.field for v in error.violations[:8]] == [f"images[{i}]" for i in range(8)]
        assert error.violations[8].description.startswith("are wrong in 248 more places: images[8], images[9]")

    def test_missing_images_and_unknown_models(self, client: Any, harness: ModuleType, running: Any) -> None:
        """As for the other calls."""
        assert type(harness.raised(lambda: client.detect(WHITE, model="other"))) is errors.ModelNotFound
        with grpc.insecure_channel(running.target) as channel:
            stub = harness.stub(channel)
            with pytest.raises(grpc.RpcError, match=r"images\[0\]: is missing"):
                stub.Detect(pb.DetectRequest(images=[pb.Image()]))

    @pytest.mark.parametrize("image", [None, 3, [1, 2]])
    def test_what_is_no_image_at_all(self, client: Any, image: Any) -> None:
        """A mistake in the calling program."""
        with pytest.raises(TypeError, match="expected an image"):
            client.detect(image)


class TestWhileBusy:
    """Bounded, and off the loop."""

    @pytest.fixture
    def slow(self, running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every answer takes 1.5 s of the device."""
        executor = running.engine()._executor
        answer = executor._answer

        def waits(question: object) -> Any:
            time.sleep(1.5)
            return answer(question)

        monkeypatch.setattr(executor, "_answer", waits)

    def test_a_batch_takes_the_device_in_pieces(
        self, client: Any, running: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that draws come in between."""
        executor, rows = running.engine()._executor, []
        answer = executor._answer

        def notes(question: Any) -> Any:
            rows.append(len(question.pixels))
            return answer(question)

        monkeypatch.setattr(executor, "_answer", notes)
        client.detect([GREY] * 100)
        assert sorted(rows) == [4, 32, 32, 32]

    @pytest.mark.usefixtures("slow")
    def test_the_loop_goes_on(self, client: Any) -> None:
        """Other calls are answered meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            busy = pool.submit(client.detect, WHITE)
            time.sleep(0.2)
            start = time.monotonic()
            client.get_model()
            assert time.monotonic() - start < 1.0
            assert not busy.done()
            assert busy.result(timeout=60)[0].flagged

    @pytest.mark.usefixtures("slow")
    def test_more_than_may_wait_is_refused(self, client: Any, harness: ModuleType) -> None:
        """With a hint when to come back; those that wait are answered."""
        with ThreadPoolExecutor(4) as pool:
            busy = [pool.submit(client.detect, [GREY] * 256) for _ in range(4)]
            time.sleep(0.7)
            error = harness.raised(lambda: client.detect(WHITE))
            assert type(error) is errors.Overloaded
            assert error.retry_after > 0
            assert all(len(task.result(timeout=120)) == 256 for task in busy)

    @pytest.mark.usefixtures("slow")
    def test_a_deadline(self, client: Any, harness: ModuleType, running: Any) -> None:
        """Near it; nothing is left waiting."""
        start = time.monotonic()
        assert type(harness.raised(lambda: client.detect([GREY] * 256, timeout=0.3))) is errors.DeadlineExceeded
        assert time.monotonic() - start < 1.4
        questions = running.running.service.models.get("").questions
        assert harness.eventually(lambda: running.call(lambda: questions.rows) == 0)


def test_in_a_process_of_its_own(harness: ModuleType, bundle: Bundle, local: Any) -> None:
    """The networks are there, too."""
    with harness.Server([harness.LoadedModel.read(bundle.path, isolate=True)]) as server, server.client() as client:
        assert client.detect([WHITE, GREY]) == local.detect([WHITE, GREY])
        assert client.reform(GREY) == local.reform(GREY)
        assert client.certify(harness.image()).label == 1


class TestGuard:
    """Rejections over the wire."""

    def test_they_are_outcomes(self, asked: Any, harness: ModuleType, bundle: Bundle) -> None:
        """Equal to those in process, of every call that may have them; others are not held up."""
        with certserve.open(bundle.path, key_source=harness.SECRET) as local:
            for procedure in ("predict", "certify"):
                outcome = getattr(asked, procedure)(WHITE, guard=True)
                assert type(outcome) is certserve.Rejected
                assert outcome == getattr(local, procedure)(WHITE, guard=True)
                assert getattr(asked, procedure)(GREY, guard=True) == getattr(local, procedure)(GREY)

    def test_of_streams(self, client: Any) -> None:
        """One reply; and among those of CertifyMany."""
        (only,) = client.certify_stream(WHITE, guard=True)
        found = dict(client.certify_many([("white", WHITE), ("grey", GREY)], guard=True))
        assert found["white"] == only
        assert type(found["grey"]) is not certserve.Rejected

    def test_signed(self, harness: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
        """As every other outcome is; a changed score is not what was signed."""
        key = SigningKey.fresh()
        key.to_file(tmp_path / "key.pem")
        config = Config(server=Address(port=0), security=Security(signing_key_file=str(tmp_path / "key.pem")))
        loaded = [harness.LoadedModel.read(bundle.path)]
        with harness.Server(loaded, config=config) as server, server.client() as client:
            outcome = client.certify(WHITE, guard=True)
        assert certserve.verify(outcome, public_key=key.public_key)
        raised = replace(outcome.detectors[0], score=outcome.detectors[0].score * (1 + 1e-15))
        with pytest.raises(errors.VerificationFailed, match="signature"):
            certserve.verify(replace(outcome, detectors=(raised, *outcome.detectors[1:])), public_key=key.public_key)
