"""The linear oracle through the whole stack: the answers obey the law that the exact probability gives.

The secret is fixed, so the answers are always the same ones; each interval has a false-alarm probability of 1e-9
over the choice of the secret.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from certserve.client import AsyncClient
from certserve.smoothing.outcomes import Abstention, Certificate, Prediction

FALSE_ALARM = 1e-9
ASKED, N0, N, ALPHA = 200, 60, 200, 0.05
SIGMA = 0.25
BRIGHTNESSES = (160, 180)


def exact_probability(harness: ModuleType, brightness: int) -> float:
    """P(brightness + round(255 sigma Z) lies above the threshold), summed over the rounded Gaussian."""
    values = np.arange(-1000, 1001)
    scale = 255.0 * SIGMA
    masses = norm.cdf((values + 0.5) / scale) - norm.cdf((values - 0.5) / scale)
    return float(masses[brightness + values > harness.THRESHOLD].sum())


def true_radius(harness: ModuleType, brightness: int) -> float:
    """The distance to the nearest image that the smoothed classifier calls by another name."""
    return float((brightness - harness.THRESHOLD) / 255.0)


def allowed(trials: int, probability: float, false_alarm: float = FALSE_ALARM) -> tuple[int, int]:
    """The smallest and largest count that a binomial law gives, except with that probability."""
    law = binom(trials, probability)
    return int(law.ppf(false_alarm / 2)), int(law.isf(false_alarm / 2))


async def _ask_all(target: str, procedure: str, harness: ModuleType, brightness: int) -> Sequence[Any]:
    async with AsyncClient(target) as client:
        ask = getattr(client, procedure)
        options: dict[str, Any] = {"n": N, "alpha": ALPHA, "sigma": SIGMA}
        if procedure == "certify":
            options["n0"] = N0
        image = harness.image(brightness)
        return await asyncio.gather(
            *(ask(image, nonce=k.to_bytes(2, "big"), timeout=harness.PATIENCE, **options) for k in range(ASKED))
        )


@pytest.mark.parametrize("brightness", BRIGHTNESSES)
def test_the_probability_is_the_one_in_closed_form(harness: ModuleType, brightness: int) -> None:
    """The oracle's own two readings agree: the sum over the grid, and Phi(distance / sigma)."""
    closed = norm.cdf(true_radius(harness, brightness) / SIGMA)
    assert exact_probability(harness, brightness) == pytest.approx(closed, abs=1e-12)


@pytest.mark.parametrize("brightness", BRIGHTNESSES)
class TestCertify:
    """200 questions that differ in their nonce only."""

    @pytest.fixture
    def outcomes(self, server: Any, loop: Any, harness: ModuleType, brightness: int) -> Sequence[Any]:
        """Their answers, through gRPC."""
        answers: Sequence[Any] = loop.run(_ask_all(server.target, "certify", harness, brightness))
        assert all(isinstance(answer, Certificate | Abstention) for answer in answers)
        return answers

    def test_votes(self, outcomes: Sequence[Any], harness: ModuleType, brightness: int) -> None:
        """Every count, and their sums, are ones that the law allows, in selection and in estimation."""
        p = exact_probability(harness, brightness)
        for draws, counts in (
            (N0, [outcome.selection.counts[1] for outcome in outcomes]),
            (N, [outcome.estimation[0].counts[1] for outcome in outcomes]),
        ):
            low, high = allowed(draws, p, FALSE_ALARM / ASKED)
            assert low <= min(counts) <= max(counts) <= high
            low, high = allowed(draws * ASKED, p)
            assert low <= sum(counts) <= high
            assert len(set(counts)) > 5  # another nonce, other noise

    def test_selection_and_estimation_are_independent(
        self, outcomes: Sequence[Any], harness: ModuleType, brightness: int
    ) -> None:
        """Draws used twice would make both counts move together."""
        selection = [outcome.selection.counts[1] for outcome in outcomes]
        estimation = [outcome.estimation[0].counts[1] for outcome in outcomes]
        correlation = float(np.corrcoef(selection, estimation)[0, 1])
        limit = math.tanh(norm.isf(FALSE_ALARM / 2) / math.sqrt(ASKED - 3))  # Fisher's transformation
        assert abs(correlation) < limit

    def test_how_often_the_bound_is_too_large(
        self, outcomes: Sequence[Any], harness: ModuleType, brightness: int
    ) -> None:
        """p_lower exceeds the exact p as often as Clopper and Pearson's law says, which is at most alpha."""
        p = exact_probability(harness, brightness)
        wrong = next(k for k in range(N + 1) if binom.sf(k - 1, N, p) < ALPHA)  # the test that the bound inverts
        rate = float(binom.sf(wrong - 1, N, p))
        assert rate <= ALPHA
        low, high = allowed(ASKED, rate)
        assert low <= sum(outcome.label == 1 and outcome.p_lower > p for outcome in _certificates(outcomes)) <= high

    def test_how_often_the_radius_is_too_large(
        self, outcomes: Sequence[Any], harness: ModuleType, brightness: int
    ) -> None:
        """False certificates are no more than alpha allows; most answers are certificates, and not far too small."""
        radius = true_radius(harness, brightness)
        certificates = _certificates(outcomes)
        assert len(certificates) > ASKED // 2
        false = sum(outcome.label != 1 or outcome.radius > radius for outcome in certificates)
        assert false <= allowed(ASKED, ALPHA)[1]
        assert max(outcome.radius for outcome in certificates) > 0.8 * radius

    def test_p_lower_is_the_bound_of_the_votes(
        self, outcomes: Sequence[Any], harness: ModuleType, brightness: int
    ) -> None:
        """What arrives is what the votes give, less the noise's own error."""
        for outcome in outcomes:
            label = outcome.label if isinstance(outcome, Certificate) else outcome.candidate
            k = outcome.estimation[0].counts[label]
            bound = beta.ppf(ALPHA, k, N - k + 1) if k else 0.0
            assert outcome.p_lower == pytest.approx(bound - outcome.setting.arithmetic_error, abs=1e-9)
            assert outcome.p_lower <= bound


def _certificates(outcomes: Sequence[Any]) -> list[Certificate]:
    return [outcome for outcome in outcomes if isinstance(outcome, Certificate)]


@pytest.mark.parametrize("brightness", BRIGHTNESSES)
def test_one_long_question(client: Any, harness: ModuleType, brightness: int) -> None:
    """Enough draws to see a noise that is two per cent too small or too large."""
    draws = 200_000
    outcome = client.certify(harness.image(brightness), n=draws, sigma=SIGMA, timeout=harness.PATIENCE)
    low, high = allowed(draws, exact_probability(harness, brightness))
    assert low <= outcome.estimation[0].counts[1] <= high
    assert 0.95 * true_radius(harness, brightness) < outcome.radius


@pytest.mark.parametrize("brightness", BRIGHTNESSES)
def test_predict(server: Any, loop: Any, harness: ModuleType, brightness: int) -> None:
    """Every count of PREDICT is one that the law allows, and wrong labels no more than alpha allows."""
    answers = loop.run(_ask_all(server.target, "predict", harness, brightness))
    p = exact_probability(harness, brightness)
    counts = [(a.votes if isinstance(a, Prediction) else a.estimation[0]).counts[1] for a in answers]
    low, high = allowed(N, p, FALSE_ALARM / ASKED)
    assert low <= min(counts) <= max(counts) <= high
    low, high = allowed(N * ASKED, p)
    assert low <= sum(counts) <= high
    wrong = sum(isinstance(answer, Prediction) and answer.label != 1 for answer in answers)
    assert wrong <= allowed(ASKED, ALPHA)[1]
