"""`verify` accepts what either face answers, and nothing that was improved afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import certserve
from certserve.endpoints.models import LoadedModel
from certserve.errors import VerificationFailed
from certserve.noise.arithmetic import Arithmetic
from certserve.smoothing.outcomes import Undecided


@pytest.fixture(scope="module", params=["local", "grpc"])
def face(request: pytest.FixtureRequest, model: Any, bundle: Any, harness: ModuleType) -> Iterator[Any]:
    """The model in this process, or the same one behind a server."""
    if request.param == "local":
        yield model
        return
    pytest.importorskip("grpc_health.v1")
    with harness.Server([LoadedModel.read(bundle)]) as server, server.client() as client:
        yield client


def pixels(harness: ModuleType, arithmetic: str, brightness: int = 180) -> Any:
    """An image on or off the grid."""
    image = harness.image(brightness)
    if arithmetic == "grid":
        return image
    off = image.astype(np.float32) / np.float32(255)
    off[0, 0, 0] = 0.3
    return off


@pytest.mark.parametrize("arithmetic", ["grid", "float"])
@pytest.mark.parametrize("procedure", ["predict", "certify"])
@pytest.mark.parametrize("brightness", [20, 128, 180])
def test_accepts_what_was_answered(
    face: Any, harness: ModuleType, procedure: str, arithmetic: str, brightness: int
) -> None:
    """Certificates, predictions and abstentions; the noise's claim is among what was checked."""
    outcome = getattr(face, procedure)(pixels(harness, arithmetic, brightness))
    assert outcome.setting.arithmetic == arithmetic
    checked = certserve.verify(outcome)
    assert f"{arithmetic} noise of 16 pixels" in checked[-1]


@pytest.mark.parametrize("arithmetic", ["grid", "float"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.999])
def test_refuses_a_noise_that_claims_to_be_better(
    face: Any, harness: ModuleType, arithmetic: str, factor: float
) -> None:
    """d * eps follows from sigma, arithmetic and pixels; whoever lowers it gets a larger bound than he may."""
    outcome = face.certify(pixels(harness, arithmetic))
    lowered = replace(outcome.setting, arithmetic_error=factor * outcome.setting.arithmetic_error)
    with pytest.raises(VerificationFailed, match=r"d \* eps"):
        certserve.verify(replace(outcome, setting=lowered))


def test_refuses_float_noise_sold_as_grid_noise(face: Any, harness: ModuleType) -> None:
    """The certificate of the float arithmetic, with the other's deduction."""
    outcome = face.certify(pixels(harness, "float"))
    grid = face.certify(pixels(harness, "grid"))
    cheaper = replace(outcome.setting, arithmetic_error=grid.setting.arithmetic_error)
    with pytest.raises(VerificationFailed, match=r"d \* eps"):
        certserve.verify(replace(outcome, setting=cheaper))


def test_refuses_fewer_pixels_than_there_are_dimensions(face: Any, harness: ModuleType) -> None:
    """A larger image needs a larger deduction than this certificate made."""
    outcome = face.certify(harness.image())
    space = replace(outcome.origin.space, shape=(3, 224, 224))
    with pytest.raises(VerificationFailed, match=r"d \* eps"):
        certserve.verify(replace(outcome, origin=replace(outcome.origin, space=space)))


@pytest.mark.parametrize("shape", [(), (0, 4, 4), (-1, 4, 4), (10**200, 10**200, 1)])
def test_refuses_pixels_that_are_none(face: Any, harness: ModuleType, shape: tuple[int, ...]) -> None:
    """No dimension would need no deduction."""
    outcome = face.certify(harness.image())
    space = replace(outcome.origin.space, shape=shape)
    free = replace(outcome.setting, arithmetic_error=0.0)
    with pytest.raises(VerificationFailed):
        certserve.verify(replace(outcome, setting=free, origin=replace(outcome.origin, space=space)))


@pytest.mark.parametrize("field", ["radius", "p_lower"])
def test_refuses_an_improved_certificate(face: Any, harness: ModuleType, field: str) -> None:
    """By one part in a million."""
    outcome = face.certify(harness.image())
    with pytest.raises(VerificationFailed):
        certserve.verify(replace(outcome, **{field: getattr(outcome, field) * (1 + 1e-6)}))


def test_refuses_another_label(face: Any, harness: ModuleType) -> None:
    """The votes name another one."""
    with pytest.raises(VerificationFailed):
        certserve.verify(replace(face.certify(harness.image()), label=0))


def test_refuses_an_arithmetic_that_nobody_knows(face: Any, harness: ModuleType) -> None:
    """Nothing is known of its error."""
    outcome = face.certify(harness.image())
    with pytest.raises(VerificationFailed, match="exact"):
        certserve.verify(replace(outcome, setting=replace(outcome.setting, arithmetic="exact")))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), 11.0, float("inf")])
@pytest.mark.parametrize("arithmetic", list(Arithmetic))
def test_refuses_a_sigma_that_is_none(face: Any, harness: ModuleType, sigma: float, arithmetic: Arithmetic) -> None:
    """Certificates come from anywhere: one that no server could have issued is refused, not tripped over."""
    outcome = face.certify(pixels(harness, arithmetic.value))
    with pytest.raises(VerificationFailed):
        certserve.verify(replace(outcome, setting=replace(outcome.setting, sigma=sigma)))


def test_nothing_is_claimed_by_the_undecided(face: Any, harness: ModuleType) -> None:
    """So nothing can be wrong."""
    outcome = face.certify(harness.image())
    assert certserve.verify(Undecided("no time", outcome.setting, outcome.origin)) == ("Nothing is claimed.",)
