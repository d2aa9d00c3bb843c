"""Outcomes as JSON: what is written is read back, and what is no outcome is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from certserve import from_document, to_document
from certserve.smoothing.outcomes import Undecided

KINDS = (
    "certificate",
    "prediction",
    "abstention of certify",
    "abstention of predict",
    "undecided",
    "label 0",
    "rejected",
)


@pytest.fixture(scope="module")
def outcomes(model: Any, guarded: Any, harness: ModuleType) -> dict[str, Any]:
    """A real one of each kind."""
    certificate = model.certify(harness.image())
    return {
        "certificate": certificate,
        "prediction": model.predict(harness.image()),
        "abstention of certify": model.certify(harness.image(128)),
        "abstention of predict": model.predict(harness.image(128)),
        "undecided": Undecided("no time was left", certificate.setting, certificate.origin),
        "label 0": model.certify(harness.image(20)),
        "rejected": guarded.certify(np.full((1, 4, 4), 255, np.uint8), guard=True),
    }


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    """Written and read."""

    def test_round_trip_through_text(self, outcomes: dict[str, Any], kind: str) -> None:
        """No digit and no field is lost, and the text is plain JSON without NaN."""
        outcome = outcomes[kind]
        text = json.dumps(to_document(outcome), allow_nan=False)
        assert from_document(json.loads(text)) == outcome

    def test_begins_with_what_it_is_and_says(self, outcomes: dict[str, Any], kind: str) -> None:
        """For a reader who knows nothing of this package."""
        document = to_document(outcomes[kind])
        assert list(document)[:2] == ["kind", "statement"]
        assert document["kind"] == type(outcomes[kind]).__name__.lower()
        assert document["statement"] == outcomes[kind].statement

    def test_the_statement_is_not_believed(self, outcomes: dict[str, Any], kind: str) -> None:
        """It follows from the fields."""
        document = to_document(outcomes[kind]) | {"statement": "Everything is guaranteed."}
        assert from_document(document) == outcomes[kind]

    def test_every_field_is_needed_at_every_depth(self, outcomes: dict[str, Any], kind: str) -> None:
        """One that is missing is named; so is one that nobody knows."""
        whole = to_document(outcomes[kind])
        for path in _objects(whole):
            for name in _at(whole, path):
                if name in ("kind", "statement"):
                    continue
                less = json.loads(json.dumps(whole))
                del _at(less, path)[name]
                with pytest.raises(ValueError, match=f"missing.*'{name}'"):
                    from_document(less)
            more = json.loads(json.dumps(whole))
            _at(more, path)["bonus"] = 1
            with pytest.raises(ValueError, match=r"unknown.*'bonus'"):
                from_document(more)

    @pytest.mark.parametrize("wrong", [True, None, "text", [], {}, 1.5, 3])
    def test_every_type_is_checked_at_every_depth(self, outcomes: dict[str, Any], kind: str, wrong: Any) -> None:
        """A value of another type is refused wherever it stands, with a ValueError and nothing else."""
        whole = to_document(outcomes[kind])
        for path in _objects(whole):
            for name, value in _at(whole, path).items():
                if name in ("kind", "statement") or _fits(name, value, wrong):
                    continue
                changed = json.loads(json.dumps(whole))
                _at(changed, path)[name] = wrong
                with pytest.raises(ValueError, match=r"expected|is not a valid|missing fields"):
                    from_document(changed)


def _objects(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all JSON objects in it."""
    if isinstance(document, list):
        return [found for i, item in enumerate(document) for found in _objects(item, (*path, i))]
    if not isinstance(document, dict):
        return []
    return [path, *(found for name, item in document.items() for found in _objects(item, (*path, name)))]


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def _fits(name: str, value: Any, wrong: Any) -> bool:
    """Whether a field may well hold that."""
    if value is None or (wrong is None and name in ("p_lower", "p_value", "p_upper", "precision")):
        return wrong is None or type(wrong) in (float, int)
    if isinstance(value, float):
        return type(wrong) in (float, int)
    if isinstance(value, str):
        return isinstance(wrong, str) and name != "bound"
    return type(wrong) is type(value) and not isinstance(value, dict)


@pytest.mark.parametrize(
    "document", [None, 1, "certificate", [], {}, {"kind": "guarantee"}, {"kind": None}, {"kind": []}]
)
def test_what_is_no_outcome(document: Any) -> None:
    """The kinds there are, are named."""
    with pytest.raises(ValueError, match="certificate, prediction, abstention, undecided, rejected"):
        from_document(document)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d["setting"].update(bound="ternary"), "ternary"),
        (lambda d: d["selection"].update(counts=[1, True]), r"selection\.counts\[1\]"),
        (lambda d: d["setting"].update(looks=[1.0]), r"setting\.looks\[0\]"),
        (lambda d: d["origin"]["space"].update(shape="1x4x4"), r"origin\.space\.shape"),
        (lambda d: d.update(estimation={}), "estimation"),
        (lambda d: d.update(label=1.0), r"certificate\.label"),
        (lambda d: d.update(radius="0.2"), r"certificate\.radius"),
        (lambda d: d.update(radius=10**400), r"certificate\.radius"),
    ],
)
def test_the_place_is_said(outcomes: dict[str, Any], change: Callable[[Any], None], named: str) -> None:
    """Where in the document it is wrong."""
    document = to_document(outcomes["certificate"])
    change(document)
    with pytest.raises(ValueError, match=named):
        from_document(document)


def test_a_whole_number_may_stand_for_a_real_one(outcomes: dict[str, Any]) -> None:
    """JSON writers in other languages drop the point."""
    document = to_document(outcomes["certificate"])
    document["setting"]["sigma"] = 1
    read = from_document(document)
    assert read == replace(outcomes["certificate"], setting=replace(outcomes["certificate"].setting, sigma=1.0))
    assert isinstance(read.setting.sigma, float)
