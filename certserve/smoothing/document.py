"""Outcomes as JSON documents, and back: what `certserve certify --json` writes and `certserve verify` reads."""

from __future__ import annotations

import base64
import json
import math
import types
import typing
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any

from certserve.smoothing.outcomes import Abstention, Certificate, Prediction, Rejected, Undecided

__all__ = ["AnyOutcome", "canonical_json", "from_document", "to_document"]

AnyOutcome: typing.TypeAlias = Certificate | Prediction | Abstention | Undecided | Rejected

_LARGEST_EXACT = 2**53  # integers up to here are doubles without loss
_NAMES = {float: "a finite number", int: "an integer", str: "a string", bool: "true or false"}

_LEAVES = (int, float, str)  # not looked into: a certificate has thousands, and is signed on the event loop

_KINDS: dict[str, type[AnyOutcome]] = {
    "certificate": Certificate,
    "prediction": Prediction,
    "abstention": Abstention,
    "undecided": Undecided,
    "rejected": Rejected,
}


def to_document(outcome: AnyOutcome) -> dict[str, Any]:
    """The outcome as JSON types: `kind`, `statement`, every field, and the signature, if any, in base64.

    Floats keep all their digits.
    """
    kind = next(name for name, cls in _KINDS.items() if isinstance(outcome, cls))
    signature = {"signature": base64.b64encode(outcome.signature).decode()} if outcome.signature else {}
    return {"kind": kind, "statement": outcome.statement, **_plain(outcome), **signature}


def canonical_json(outcome: AnyOutcome) -> bytes:
    """The outcome as the one sequence of bytes that is digested or signed: any changed digit changes it.

    JSON in UTF-8, names sorted, no spaces, each float by the shortest decimal that reads back as it; `kind` and every
    field, without the statement, which follows from them, and the signature, which is over them.
    """
    document = {name: value for name, value in to_document(outcome).items() if name not in ("statement", "signature")}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def from_document(document: object) -> AnyOutcome:
    """The outcome that `to_document` wrote. The statement is not read: it follows from the fields.

    Raises:
        ValueError: the document is not one; what is missing, unknown or of the wrong type.
    """
    if not isinstance(document, dict) or document.get("kind") not in tuple(_KINDS):
        raise ValueError(f"expected a JSON object whose `kind` is one of {', '.join(_KINDS)}")
    rest = {name: value for name, value in document.items() if name not in ("kind", "statement", "signature")}
    outcome = _read(_KINDS[document["kind"]], rest, document["kind"])
    assert isinstance(outcome, Certificate | Prediction | Abstention | Undecided | Rejected)
    return replace(outcome, signature=_signature(document.get("signature", "")))


def _signature(value: object) -> bytes:
    if isinstance(value, str):
        with suppress(ValueError):
            return base64.b64decode(value, validate=True)
    raise ValueError(f"signature: expected base64, not {value!r:.100}")


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.compare}
    if isinstance(value, tuple):
        return [item if type(item) in _LEAVES else _plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as an instance of the annotation `kind`."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list, not {value!r}")
        return tuple(_read(typing.get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is types.UnionType:
        return None if value is None else _read(typing.get_args(kind)[0], value, where)
    if is_dataclass(kind):
        return _read_fields(kind, value, where)
    if kind is float and type(value) is int and abs(value) <= _LARGEST_EXACT:
        value = float(value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where}: expected {_NAMES[kind]}, not {value!r:.100}")
    return value


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, not {value!r}")
    known = typing.get_type_hints(kind)
    hints = {f.name: known[f.name] for f in fields(kind) if f.compare}
    unknown, missing = sorted(set(value) - set(hints)), sorted(set(hints) - set(value))
    if unknown or missing:
        raise ValueError(f"{where}: unknown fields {unknown}, missing fields {missing}")
    return kind(**{name: _read(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})
