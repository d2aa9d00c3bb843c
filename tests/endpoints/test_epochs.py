"""One secret is current; a request keeps the one it began with; none that was current comes back."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import certserve
from certserve.endpoints import smoothing
from certserve.endpoints.epochs import Epochs
from certserve.noise.keystream import Secret

ONE, TWO, THREE = (Secret(bytes([k]) * 32) for k in (1, 2, 3))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "certserve.endpoints.epochs")
    return caplog


def unused(secret: Secret) -> str:
    """What the log says when nothing is drawn with it any more."""
    return f"no request is drawn with the secret of commitment {secret.commitment} here any more"


def test_a_request_keeps_its_secret() -> None:
    epochs = Epochs(ONE)
    with epochs.held() as early:
        assert epochs.begin(TWO)
        with epochs.held() as late:
            assert (early, late, epochs.current) == (ONE, TWO, TWO)


def test_the_last_request_of_an_epoch_is_told(said: pytest.LogCaptureFixture) -> None:
    """Only then may it be published; the current one never is."""
    epochs = Epochs(ONE)
    with epochs.held():
        with epochs.held():
            epochs.begin(TWO)
            assert f"2 requests go on under {ONE.commitment}" in said.messages[-1]
        assert unused(ONE) not in said.messages
    assert said.messages[-1] == unused(ONE)
    with epochs.held():
        pass
    assert unused(TWO) not in said.messages


def test_an_epoch_without_requests_ends_at_once(said: pytest.LogCaptureFixture) -> None:
    epochs = Epochs(ONE)
    epochs.begin(TWO)
    assert said.messages[-1] == unused(ONE)


def test_a_request_that_fails_is_over(said: pytest.LogCaptureFixture) -> None:
    epochs = Epochs(ONE)

    def fail() -> None:
        with epochs.held():
            epochs.begin(TWO)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert said.messages[-1] == unused(ONE)


def test_the_current_secret_begins_no_epoch(said: pytest.LogCaptureFixture) -> None:
    epochs = Epochs(ONE)
    assert not epochs.begin(Secret(ONE.secret_bytes))
    assert said.messages == []


def test_no_secret_comes_back() -> None:
    """It may be public."""
    epochs = Epochs(ONE)
    epochs.begin(TWO)
    epochs.begin(THREE)
    for past in (ONE, TWO):
        with pytest.raises(ValueError, match=past.commitment):
            epochs.begin(past)
    assert epochs.current == THREE


def test_no_secret_is_said(said: pytest.LogCaptureFixture) -> None:
    epochs = Epochs(ONE)
    with epochs.held():
        epochs.begin(TWO)
    assert said.messages
    for secret in (ONE, TWO):
        assert secret.secret_bytes.hex() not in said.text
        assert repr(secret.secret_bytes) not in said.text


def test_admission_decides(
    bundle: Path, harness: ModuleType, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    """A rotation while the image is decoded is too late for this question: commitment and noise are the old ones."""
    decode = smoothing._pixels_of
    with certserve.open(bundle, key_source=ONE) as model, certserve.open(bundle, key_source=ONE) as other:
        expected = other.certify(harness.image())

        def rotating(*arguments: Any) -> Any:
            model._service.models.epochs.begin(TWO)
            return decode(*arguments)

        monkeypatch.setattr(smoothing, "_pixels_of", rotating)
        assert model.certify(harness.image()) == expected
        assert model.get_model().commitment == TWO.commitment
    assert said.messages[-1] == unused(ONE)
