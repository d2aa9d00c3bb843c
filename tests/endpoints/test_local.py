"""A model in this process: the methods of the client, progress, deadlines, threads, and its end."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import certserve
from certserve import errors
from certserve.client import AsyncClient, Client
from certserve.endpoints.local import LocalModel
from certserve.endpoints.requests import PredictRequest
from certserve.images import RawImage, encode_png
from certserve.noise.keystream import Secret
from certserve.smoothing.outcomes import Certificate

LONG = 5_000_000
METHODS = (
    "predict",
    "certify",
    "certify_stream",
    "detect",
    "reform",
    "robustify",
    "list_models",
    "get_model",
    "close",
)
REMOTE = ("certify_many", "get_surrogate")
"""What a local model has no need of: its callers have threads, and its bundle's weights."""


def parameters(method: Callable[..., Any], *but: str) -> dict[str, tuple[Any, Any, Any]]:
    """Name -> kind, default and annotation, without those named."""
    return {
        name: (parameter.kind, parameter.default, parameter.annotation)
        for name, parameter in inspect.signature(method).parameters.items()
        if name not in but
    }


def _without_async(annotations: object) -> str:
    return str(annotations).replace("AsyncIter", "Iter")


class TestOneFace:
    """What is written for one runs with the others."""

    @pytest.mark.parametrize("method", METHODS + REMOTE)
    def test_the_clients_agree(self, method: str) -> None:
        """Sync and async: the same names, order, defaults and types, but for what is iterated over."""
        sync, other = getattr(Client, method), getattr(AsyncClient, method)
        assert str(list(parameters(sync).items())) == _without_async(list(parameters(other).items()))
        assert inspect.signature(sync).return_annotation == _without_async(inspect.signature(other).return_annotation)

    @pytest.mark.parametrize("method", METHODS)
    def test_the_local_model_agrees(self, method: str) -> None:
        """Apart from the model's name, which it has no need of, and the progress, which no wire carries."""
        local, remote = getattr(LocalModel, method), getattr(Client, method)
        but = ("timeout",) if method in ("list_models", "get_model") else ("model", "on_progress")
        assert list(parameters(local, *but).items()) == list(parameters(remote, *but).items())
        assert inspect.signature(local).return_annotation == inspect.signature(remote).return_annotation

    def test_there_are_no_others(self) -> None:
        """A method that only one of them has would be missed by whoever changes over."""
        public = [{name for name in vars(cls) if not name.startswith("_")} for cls in (LocalModel, Client, AsyncClient)]
        assert public == [{*METHODS}, {*METHODS, *REMOTE}, {*METHODS, *REMOTE}]
        assert list(parameters(Client).items()) == list(parameters(AsyncClient).items())


class TestProgress:
    """Told how far it is."""

    @pytest.mark.parametrize(("procedure", "total"), [("predict", 5000), ("certify", 5020)])
    def test_grows_to_the_total(self, model: Any, harness: ModuleType, procedure: str, total: int) -> None:
        """Never backwards, and at the end all draws are counted."""
        told: list[tuple[int, int]] = []
        getattr(model, procedure)(harness.image(), n=5000, on_progress=lambda *now: told.append(now))
        counted = [done for done, _ in told]
        assert {planned for _, planned in told} == {total}
        assert counted == sorted(counted)
        assert len(set(counted)) > 3
        assert counted[-1] == total

    def test_does_not_change_the_answer(self, model: Any, harness: ModuleType) -> None:
        """Watching is not asking."""
        watched = model.certify(harness.image(), n=3000, on_progress=lambda *_: None)
        assert watched == model.certify(harness.image(), n=3000)

    def test_a_callback_that_fails(self, bundle: Path, harness: ModuleType) -> None:
        """It is its own request's failure: that caller gets its error, others and later ones their answers."""

        def fail(*_: int) -> None:
            raise LookupError("in the callback")

        with certserve.open(bundle, key_source=harness.SECRET) as model, ThreadPoolExecutor(1) as pool:
            other = pool.submit(lambda: model.certify(harness.image(), n=100_000))
            with pytest.raises(LookupError, match="in the callback"):
                model.certify(harness.image(), n=3000, on_progress=fail)
            assert other.result(timeout=60).setting.n == 100_000
            assert isinstance(model.certify(harness.image()), Certificate)


class TestTimeout:
    """Who cannot wait is told so."""

    @pytest.mark.parametrize("procedure", ["predict", "certify"])
    def test_ends_promptly(self, model: Any, harness: ModuleType, procedure: str) -> None:
        """Near its deadline, or at once where the pace is known; the model goes on."""
        start = time.monotonic()
        with pytest.raises((errors.DeadlineExceeded, errors.Infeasible), match=r"0\.2 s"):
            getattr(model, procedure)(harness.image(), n=LONG, timeout=0.2)
        assert time.monotonic() - start < 5.0
        assert model.certify(harness.image()).label == 1

    def test_time_enough(self, model: Any, harness: ModuleType) -> None:
        """A deadline that is kept changes nothing."""
        assert model.certify(harness.image(), timeout=60.0) == model.certify(harness.image())


class TestThreads:
    """Methods may be called from any thread, and run together."""

    def test_concurrent_answers_are_those_alone(self, model: Any, harness: ModuleType) -> None:
        """Ten questions in ten threads."""

        def ask(k: int) -> Any:
            return model.certify(harness.image(150 + k), n=2000 + k)

        alone = [ask(k) for k in range(10)]
        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(ask, range(10))) == alone

    def test_a_short_question_overtakes_a_long_one(self, model: Any, harness: ModuleType) -> None:
        """It is answered while the long one runs."""
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(lambda: model.certify(harness.image(), n=400_000))
            short = model.certify(harness.image(), n=500)
            assert not long.done()
            assert short == model.certify(harness.image(), n=500)
            assert long.result(timeout=60).setting.n == 400_000


class TestTheEnd:
    """Closing."""

    def test_twice(self, bundle: Path) -> None:
        """Closing what is closed does nothing."""
        model = certserve.open(bundle)
        model.close()
        model.close()
        with model:
            pass

    def test_requests_still_running(self, bundle: Path, harness: ModuleType) -> None:
        """They fail at once; nobody waits for ever."""
        model = certserve.open(bundle)
        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(lambda: model.certify(harness.image(), n=LONG)) for _ in range(3)]
            time.sleep(0.2)
            model.close()
            for answer in running:
                assert isinstance(answer.exception(timeout=10), errors.Unavailable)

    def test_requests_that_come_all_the_while(self, bundle: Path, harness: ModuleType) -> None:
        """Whatever stage a request has reached when the model closes, it ends: answered, or `Unavailable`."""
        model = certserve.open(bundle)
        png = encode_png(harness.image(), "grey")

        def ask() -> Exception:
            while True:
                try:
                    assert model.certify(png, n=50).setting.n == 50
                except Exception as error:
                    return error

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask) for _ in range(8)]
            time.sleep(0.1)
            model.close()
            for last in asking:
                assert isinstance(last.result(timeout=10), errors.Unavailable)

    def test_a_question_that_meets_the_end(self, bundle: Path, harness: ModuleType) -> None:
        """One that was begun is closed: else Python says, some time later, that it was never awaited."""
        model = certserve.open(bundle)
        question = model._endpoints.predict(PredictRequest(image=RawImage(harness.image())))
        model.close()
        with pytest.raises(errors.Unavailable, match="closed"):
            model._wait(question)
        assert inspect.getcoroutinestate(question) == inspect.CORO_CLOSED

    @pytest.mark.parametrize("method", ["predict", "certify", "list_models", "get_model"])
    def test_a_question_afterwards(self, bundle: Path, harness: ModuleType, method: str) -> None:
        """It is told so, by an error of ours."""
        model = certserve.open(bundle)
        model.close()
        arguments = [harness.image()] if method in ("predict", "certify") else []
        with pytest.raises(errors.Unavailable, match="closed"):
            getattr(model, method)(*arguments)


class TestQuestions:
    """The same checks as over the wire."""

    def test_the_secret_decides(self, bundle: Path, model: Any, harness: ModuleType) -> None:
        """The same one, the same draws; a fresh one, others; its commitment says which."""
        question: dict[str, Any] = {"image": harness.image(), "n": 3000}
        answer = model.certify(**question)
        with certserve.open(bundle, key_source=harness.SECRET) as again:
            assert again.certify(**question) == answer
        with certserve.open(bundle) as fresh:
            other = fresh.certify(**question)
        assert isinstance(other, Certificate)
        assert other.estimation != answer.estimation
        assert other.origin.commitment != answer.origin.commitment == harness.SECRET.commitment

    def test_everything_wrong_at_once(self, model: Any) -> None:
        """One error that names it all."""
        with pytest.raises(errors.InvalidRequest) as caught:
            model.certify(np.zeros((1, 2, 2)), sigma=-1.0, n0=0, n=10**30, alpha=2.0, plan="x", nonce=bytes(65))
        named = {violation.field for violation in caught.value.violations}
        assert named == {"image", "sigma", "n0", "n", "alpha", "plan", "nonce"}

    def test_a_name_that_is_not_the_models(self, model: Any) -> None:
        """The one there is, is named."""
        assert model.get_model("half") == model.get_model() == model.list_models()[0]
        with pytest.raises(errors.ModelNotFound, match="half"):
            model.get_model("other")

    @pytest.mark.parametrize("image", [None, 3, [1, 2], {"pixels": 1}])
    def test_what_is_no_image_at_all(self, model: Any, image: Any) -> None:
        """A mistake in the calling program, not in a request."""
        with pytest.raises(TypeError, match="expected an image"):
            model.certify(image)

    def test_a_file_that_is_not_there(self, model: Any) -> None:
        """As when opening any other file."""
        with pytest.raises(FileNotFoundError):
            model.certify("/nowhere/image.png")

    def test_a_directory_that_is_no_bundle(self, tmp_path: Path) -> None:
        """Its path is said."""
        with pytest.raises(errors.BundleError, match=str(tmp_path)):
            certserve.open(tmp_path, key_source=Secret(bytes(32)))
