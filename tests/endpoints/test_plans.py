"""What a plan's parameters and its time budget do to the draws and to the answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import certserve
from certserve import errors
from certserve.endpoints import smoothing
from certserve.endpoints.plans import AnytimePlan, FixedPlan, LooksPlan, TargetPlan
from certserve.endpoints.verification import verify_by_drawing
from certserve.sampling.engine import Engine
from certserve.sampling.source import DrawSource
from certserve.smoothing.outcomes import Bound, Certificate, Undecided
from certserve.smoothing.schedules import doubling_looks

N = 1_000
QUESTIONS: list[dict[str, Any]] = [
    {"plan": FixedPlan()},
    {"plan": FixedPlan(), "n": N + 1},
    {"plan": FixedPlan(), "n0": 21},
    {"plan": FixedPlan(), "alpha": 0.002},
    {"plan": FixedPlan(), "sigma": 0.5},
    {"plan": FixedPlan(), "nonce": b"other"},
    {"plan": FixedPlan(), "arithmetic": "float"},
    {"plan": FixedPlan(), "bound": Bound.TWO_CLASS},
    {"plan": TargetPlan(0.1)},
    {"plan": TargetPlan(0.1000001)},
    {"plan": TargetPlan(0.1, (0.2,))},
    {"plan": TargetPlan(0.1, (0.3,))},
    {"plan": TargetPlan(0.1, (0.2, 0.3))},
    {"plan": LooksPlan()},
    {"plan": LooksPlan((N,))},
    {"plan": LooksPlan((500, N))},
    {"plan": LooksPlan((501, N))},
    {"plan": LooksPlan((500, N), 0.01)},
    {"plan": LooksPlan((500, N), 0.02)},
    {"plan": LooksPlan((500, N)), "bound": Bound.TWO_CLASS},
]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The key of every question asked."""
    seen: list[Any] = []

    def source(key: Any, *rest: Any) -> Any:
        seen.append(key)
        return usual(key, *rest)

    usual = DrawSource
    monkeypatch.setattr(smoothing, "DrawSource", source)
    return seen


class TestKey:
    """The same question, the same draws; another one, others."""

    def test_every_parameter_is_in_it(self, model: Any, harness: ModuleType, keys: list[Any]) -> None:
        """One that is not would let a client choose among answers that share their draws."""
        for question in QUESTIONS:
            model.certify(harness.image(), **{"n": N, **question})
        for plan in (FixedPlan(), AnytimePlan()):
            model.predict(harness.image(), n=N, plan=plan)
        model.predict(harness.image(), n=N, n0=21, plan=AnytimePlan())
        model.certify(harness.image(181), n=N)
        assert len(keys) == len(QUESTIONS) + 4
        assert len(set(keys)) == len(keys)

    @pytest.mark.parametrize("question", [QUESTIONS[0], QUESTIONS[8], QUESTIONS[13]], ids=str)
    def test_the_time_budget_is_not(
        self, model: Any, harness: ModuleType, keys: list[Any], question: dict[str, Any]
    ) -> None:
        """Else a client could ask again and again with another budget."""
        asked = {"n": N, **question}
        plain = model.certify(harness.image(), **asked)
        assert model.certify(harness.image(), time_budget=600.0, **asked) == plain
        assert len(set(keys)) == 1

    def test_of_a_prediction(self, model: Any, harness: ModuleType, keys: list[Any]) -> None:
        """Nor there."""
        plain = model.predict(harness.image(), n=N, plan=AnytimePlan())
        assert model.predict(harness.image(), n=N, plan=AnytimePlan(), time_budget=600.0) == plain
        assert len(set(keys)) == 1

    def test_what_is_said_and_what_is_left_out(self, model: Any, harness: ModuleType, keys: list[Any]) -> None:
        """A default is the same question as its value."""
        said = LooksPlan(doubling_looks(N))
        assert model.certify(harness.image(), n=N, plan=said) == model.certify(harness.image(), n=N, plan=LooksPlan())
        assert len(set(keys)) == 1


class Brake:
    """A sampler that stops for good after so many draws, until it is let go."""

    def __init__(self, sampler: Any, draws: int) -> None:
        self._sampler = sampler
        self._left = draws
        self.go = threading.Event()
        self.largest_batch, self.half_batch = sampler.largest_batch, sampler.half_batch
        self.parallel, self.num_classes = 1, sampler.num_classes

    def labels(self, work: Sequence[Any]) -> Any:
        """Those of the real sampler."""
        if self._left <= 0:
            self.go.wait(60)
        self._left -= self.largest_batch
        return self._sampler.labels(work)


@pytest.mark.parametrize(
    ("plan", "more", "first"),
    [
        (FixedPlan(), {}, 20_000),
        (TargetPlan(0.1), {}, 64),
        (LooksPlan(), {}, 20_000),
        (LooksPlan(precision=0.01), {}, 200),
        (LooksPlan(), {"time_budget": 600.0}, 200),
    ],
    ids=str,
)
def test_the_first_answer_has_to_fit_into_the_deadline(
    model: Any, harness: ModuleType, monkeypatch: pytest.MonkeyPatch, plan: Any, more: dict[str, Any], first: int
) -> None:
    """Looks that nobody is told of before the last one need all their draws; admitted for the first, they are lost."""
    asked: list[int] = []
    check = Engine.check_admission

    def noted(self: Engine, *args: Any, first_look: int | None = None, **kwargs: Any) -> None:
        if first_look is not None:
            asked.append(first_look)
        check(self, *args, first_look=first_look, **kwargs)

    monkeypatch.setattr(Engine, "check_admission", noted)
    model.certify(harness.image(), n=20_000, plan=plan, **more)
    assert asked == [first]
    if isinstance(plan, LooksPlan):
        list(model.certify_stream(harness.image(), n=20_000, plan=plan, **more))
        assert asked[1:] == [200]


class TestTimeBudget:
    """It ends the same looks earlier, and changes nothing else."""

    @pytest.fixture
    def braked(self, bundle: Path, harness: ModuleType) -> Iterator[Any]:
        """The model, stuck after some 3,000 draws."""
        with certserve.open(bundle, key_source=harness.SECRET) as opened:
            executor: Any = opened._service.models.get("").engine._executor
            executor._sampler = brake = Brake(executor._sampler, 3_000)
            yield opened
            brake.go.set()

    def test_looks_give_an_earlier_certificate(self, braked: Any, model: Any, harness: ModuleType) -> None:
        """Of the same schedule, at the same alpha, among those that a stream would have sent."""
        asked: dict[str, Any] = {"n": 100_000, "plan": LooksPlan()}
        early = braked.certify(harness.image(), time_budget=2.0, **asked)
        assert isinstance(early, Certificate)
        assert certserve.verify(early)
        streamed = list(model.certify_stream(harness.image(), **asked))
        assert early in streamed[:-1]
        assert early.setting == streamed[-1].setting
        assert early.setting.alpha == harness.DEFAULTS.alpha

    @pytest.mark.parametrize("plan", [FixedPlan(), TargetPlan(0.2), LooksPlan((90_000, 100_000))], ids=str)
    def test_nothing_is_claimed_before_a_look(self, braked: Any, harness: ModuleType, plan: Any) -> None:
        """A truncated job is not certified."""
        outcome = braked.certify(harness.image(), n=100_000, plan=plan, time_budget=1.0)
        assert isinstance(outcome, Undecided)
        assert "the time budget ended after" in outcome.reason
        assert outcome.setting.alpha == harness.DEFAULTS.alpha

    def test_of_detectors_that_take_longer(
        self, model: Any, harness: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It counts from receipt: an answer that comes when the detectors are done is late."""

        async def slow(*_: Any) -> None:
            await asyncio.sleep(60.0)

        monkeypatch.setattr("certserve.endpoints.smoothing._rejected", slow)
        outcome = model.certify(harness.image(), n=1_000, time_budget=0.05)
        assert isinstance(outcome, Undecided)
        assert "before the detectors had judged" in outcome.reason

    @pytest.mark.parametrize("plan", [FixedPlan(), AnytimePlan()], ids=str)
    def test_of_a_prediction(self, braked: Any, harness: ModuleType, plan: Any) -> None:
        """The same: at 127.5 of 255 nothing decides early."""
        outcome = braked.predict(harness.image(128), n=100_000, n0=100, plan=plan, time_budget=1.0)
        assert isinstance(outcome, Undecided)

    def test_nothing_is_left_in_the_engine(self, braked: Any, harness: ModuleType) -> None:
        """The job is forgotten with its budget."""
        braked.certify(harness.image(), n=100_000, time_budget=0.5)
        engine: Any = braked._service.models.get("").engine
        assert not engine._running


class TestDrawnAgain:
    """`verify_by_drawing`: the operator's check, with the secret."""

    @pytest.mark.parametrize("question", QUESTIONS, ids=str)
    def test_holds(self, model: Any, harness: ModuleType, question: dict[str, Any]) -> None:
        """Of every plan."""
        outcome = model.certify(harness.image(), **{"n": N, **question})
        assert "every vote" in verify_by_drawing(outcome, model, harness.image())

    @pytest.mark.parametrize("brightness", [128, 180])
    @pytest.mark.parametrize("plan", [FixedPlan(), AnytimePlan()], ids=str)
    def test_predictions_hold(self, model: Any, harness: ModuleType, plan: Any, brightness: int) -> None:
        """And abstentions."""
        outcome = model.predict(harness.image(brightness), n=N, plan=plan, nonce=b"x")
        assert verify_by_drawing(outcome, model, harness.image(brightness))

    def test_each_certificate_of_a_stream_holds(self, model: Any, harness: ModuleType) -> None:
        """Also one that a time budget ended with."""
        found = list(model.certify_stream(harness.image(), n=2_000, plan=LooksPlan()))
        assert len(found) > 2
        for outcome in found:
            assert verify_by_drawing(outcome, model, harness.image())

    @pytest.mark.parametrize("question", [QUESTIONS[0], QUESTIONS[8], QUESTIONS[13]], ids=str)
    def test_a_changed_vote(self, model: Any, harness: ModuleType, question: dict[str, Any]) -> None:
        """Although it is a vote less for the label, which alone would claim too little."""
        outcome = model.certify(harness.image(), **{"n": N, **question})
        votes = outcome.estimation[-1]
        moved = replace(votes, counts=(votes.counts[0] + 1, votes.counts[1] - 1))
        changed = replace(outcome, estimation=(*outcome.estimation[:-1], moved))
        with pytest.raises(errors.VerificationFailed, match="the votes or what they come to are others"):
            verify_by_drawing(changed, model, harness.image())

    def test_another_image(self, model: Any, harness: ModuleType) -> None:
        """Its pixels have another digest."""
        outcome = model.certify(harness.image(), n=N)
        with pytest.raises(errors.VerificationFailed, match="digest of the pixels"):
            verify_by_drawing(outcome, model, harness.image(181))

    def test_another_secret(self, model: Any, bundle: Path, harness: ModuleType) -> None:
        """It was not the one that the server had committed to."""
        outcome = model.certify(harness.image(), n=N)
        with (
            certserve.open(bundle) as other,
            pytest.raises(errors.VerificationFailed, match="commitment to the secret"),
        ):
            verify_by_drawing(outcome, other, harness.image())

    def test_looks_of_another_version(self, model: Any, harness: ModuleType) -> None:
        """Their votes would be of other noise; that is said, not that they are wrong."""
        outcome = model.certify(harness.image(), n=N, plan=TargetPlan(0.05))
        schedule = replace(outcome.setting.schedule, every=128)
        elsewhere = replace(outcome, setting=replace(outcome.setting, schedule=schedule))
        with pytest.raises(errors.VerificationFailed, match="its looks are 128 draws apart, this version's 64"):
            verify_by_drawing(elsewhere, model, harness.image())

    def test_another_execution(self, model: Any, harness: ModuleType) -> None:
        """Another fingerprint is another classifier."""
        outcome = model.certify(harness.image(), n=N)
        elsewhere = replace(outcome, origin=replace(outcome.origin, fingerprint="0" * 64))
        with pytest.raises(errors.VerificationFailed, match="fingerprint of the execution"):
            verify_by_drawing(elsewhere, model, harness.image())

    def test_nothing_is_drawn_for_the_undecided(self, model: Any, harness: ModuleType) -> None:
        """It claims nothing."""
        outcome = model.certify(harness.image(), n=N)
        undecided = Undecided("no time", outcome.setting, outcome.origin)
        assert "Nothing is claimed" in verify_by_drawing(undecided, model, harness.image())
