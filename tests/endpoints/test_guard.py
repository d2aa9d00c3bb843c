"""The guard: a flagged image is rejected before anything is drawn; any other answer is what it is without."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import certserve
from certserve import errors
from certserve.endpoints.plans import AnytimePlan, LooksPlan, TargetPlan
from certserve.endpoints.verification import verify_by_drawing
from certserve.errors import VerificationFailed
from certserve.smoothing.outcomes import Rejected

WHITE = np.full((1, 4, 4), 255, np.uint8)
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("predict", {}),
    ("predict", {"plan": AnytimePlan()}),
    ("certify", {}),
    ("certify", {"plan": TargetPlan(0.1)}),
    ("certify", {"plan": LooksPlan(), "n": 3000}),
)


@pytest.mark.parametrize(("procedure", "question"), QUESTIONS, ids=str)
class TestEveryPlan:
    """Predict and Certify alike."""

    def test_a_flagged_image_is_rejected_without_a_draw(
        self, guarded: Any, procedure: str, question: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the verdict, and the question as it was asked; it verifies, and asked again it is the same."""
        with monkeypatch.context() as patch:
            patch.setattr("certserve.sampling.sampler.Sampler.labels", None)
            outcome = getattr(guarded, procedure)(WHITE, guard=True, **question)
        assert isinstance(outcome, Rejected)
        assert (outcome.verdict,) == guarded.detect(WHITE)
        plain = getattr(guarded, procedure)(WHITE, **question)
        assert (outcome.setting, outcome.origin) == (plain.setting, plain.origin)
        assert any("a detector flags" in line.lower() for line in certserve.verify(outcome))
        assert verify_by_drawing(outcome, guarded, WHITE).startswith("Asked again")

    def test_another_image_gets_its_usual_answer(
        self, guarded: Any, harness: ModuleType, procedure: str, question: Any
    ) -> None:
        """The same draws: the guard is no part of the key, or asking with and without it were two chances."""
        ask = getattr(guarded, procedure)
        assert ask(harness.image(), guard=True, **question) == ask(harness.image(), **question)


def test_a_stream_of_one(guarded: Any) -> None:
    """The outcome, and no certificate before it."""
    (outcome,) = list(guarded.certify_stream(WHITE, guard=True))
    assert isinstance(outcome, Rejected)


def test_nothing_in_a_rejection_sounds_like_a_guarantee(guarded: Any) -> None:
    """One sentence."""
    said = guarded.certify(WHITE, guard=True).statement
    assert said == (
        "Nothing is guaranteed, as nothing was drawn: flagged as unusual by l1-grey (nominal false-positive rate 0.1); "
        "that proves neither tampering nor its absence."
    )


@pytest.mark.parametrize("procedure", ["predict", "certify"])
def test_a_model_without_detectors_says_how_to_make_them(model: Any, harness: ModuleType, procedure: str) -> None:
    with pytest.raises(errors.Infeasible, match="`certserve train magnet`"):
        getattr(model, procedure)(harness.image(), guard=True)


@pytest.mark.parametrize("value", [None, "yes", 2, b""])
def test_the_guard_is_a_truth_value(guarded: Any, harness: ModuleType, value: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"guard: .* is not True or False"):
        guarded.predict(harness.image(), guard=value)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": 0.1},
        {"threshold": 0.3},
        {"flagged": False},
        {"p_value": 0.07},
        {"p_value": 0.0123},
        {"p_value": 0.0},
        {"p_value": float("nan")},
        {"rate": 0.001},
        {"rate": 1.0},
        {"score": float("inf")},
        {"validation_images": 98},
        {"validation_images": 0},
        {"name": "jsd10-grey"},
        {"name": ""},
    ],
    ids=str,
)
def test_a_rejection_whose_numbers_disagree_is_refused(guarded: Any, changes: dict[str, Any]) -> None:
    """Each number of a detector follows from the others."""
    outcome = guarded.certify(WHITE, guard=True)
    first, *rest = outcome.detectors
    with pytest.raises(VerificationFailed):
        certserve.verify(replace(outcome, detectors=(replace(first, **changes), *rest)))


def test_a_rejection_that_nobody_flags_is_refused(guarded: Any, harness: ModuleType) -> None:
    """Nor one of no detector, nor of a setting that there is not."""
    outcome = guarded.certify(WHITE, guard=True)
    (verdict,) = guarded.detect(harness.image())
    for detectors in (verdict.detectors, ()):
        with pytest.raises(VerificationFailed, match="no detector flags the image"):
            certserve.verify(replace(outcome, detectors=detectors))
    with pytest.raises(VerificationFailed, match="out of range"):
        certserve.verify(replace(outcome, setting=replace(outcome.setting, alpha=2.0)))


def test_asked_again_of_another_image_it_is_another_answer(guarded: Any, harness: ModuleType) -> None:
    outcome = guarded.certify(WHITE, guard=True)
    with pytest.raises(VerificationFailed):
        verify_by_drawing(outcome, guarded, harness.image())
    better = replace(outcome.detectors[0], score=0.26)
    with pytest.raises(VerificationFailed):
        verify_by_drawing(replace(outcome, detectors=(better, *outcome.detectors[1:])), guarded, WHITE)
