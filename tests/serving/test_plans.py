"""Every plan, in this process and over gRPC: one question, one answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import certserve
from certserve.endpoints.plans import AnytimePlan, FixedPlan, LooksPlan, TargetPlan
from certserve.smoothing.outcomes import Abstention, Bound, Certificate, Prediction

CERTIFY: list[dict[str, Any]] = [
    {"plan": FixedPlan()},
    {"plan": FixedPlan(), "bound": Bound.TWO_CLASS},
    {"plan": TargetPlan(0.1)},
    {"plan": TargetPlan(0.05, (0.1, 0.15))},
    {"plan": TargetPlan(0.5)},
    {"plan": LooksPlan()},
    {"plan": LooksPlan((100, 300, 1_000)), "n": None},
    {"plan": LooksPlan(precision=0.02)},
    {"plan": LooksPlan(), "bound": Bound.TWO_CLASS},
]
PREDICT = [FixedPlan(), AnytimePlan()]


@pytest.fixture(scope="module")
def local(bundles: dict[str, Path], harness: ModuleType) -> Iterator[Any]:
    """The linear model in this process, with the server's secret."""
    with certserve.open(bundles["half"], key_source=harness.SECRET) as opened:
        yield opened


@pytest.mark.parametrize("brightness", [128, 180])
@pytest.mark.parametrize("asked", CERTIFY, ids=str)
def test_certify(client: Any, local: Any, harness: ModuleType, asked: dict[str, Any], brightness: int) -> None:
    """The same outcome to the last digit, and it verifies."""
    question = {"n": 4_000, **asked}
    outcome = client.certify(harness.image(brightness), **question)
    assert outcome == local.certify(harness.image(brightness), **question)
    assert certserve.verify(outcome)
    missed = brightness == 128 or asked["plan"] == TargetPlan(0.5)
    assert type(outcome) is (Abstention if missed else Certificate)


@pytest.mark.parametrize("brightness", [128, 180])
@pytest.mark.parametrize("plan", PREDICT, ids=str)
def test_predict(client: Any, local: Any, harness: ModuleType, plan: Any, brightness: int) -> None:
    """The same for Predict."""
    outcome = client.predict(harness.image(brightness), n=1_000, plan=plan)
    assert outcome == local.predict(harness.image(brightness), n=1_000, plan=plan)
    assert certserve.verify(outcome)
    assert type(outcome) is (Abstention if brightness == 128 else Prediction)


def test_a_target_takes_fewer_draws(client: Any, harness: ModuleType) -> None:
    """It stops when the radius is shown, and claims no more than that radius."""
    outcome = client.certify(harness.image(), n=100_000, plan=TargetPlan(0.1))
    assert outcome.radius == 0.1
    assert outcome.estimation[-1].total < 4_000


def test_anytime_takes_fewer_draws(client: Any, harness: ModuleType) -> None:
    """A few dozen for an image that is easy."""
    assert client.predict(harness.image(255), n=10_000, plan=AnytimePlan()).votes.total <= 64
