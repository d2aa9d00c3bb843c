"""The protocol is for ever: a number once given keeps its meaning.

`certserve.descriptor.json` holds every message, field, enum value and RPC that was ever released. Whoever adds one
extends it; whoever changes or removes one breaks the callers there are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor

from certserve.v1 import certserve_pb2 as pb

GOLDEN = Path(__file__).with_name("certserve.descriptor.json")


def described() -> dict[str, dict[str, Any]]:
    """The protocol as it is: messages, enums and RPCs by name."""
    file: Any = pb.DESCRIPTOR
    messages: dict[str, Any] = {}
    for message in file.message_types_by_name.values():
        _add(message, messages)
    return {
        "messages": messages,
        "enums": {
            enum.full_name: {value.name: value.number for value in enum.values}
            for enum in file.enum_types_by_name.values()
        },
        "rpcs": {
            f"{service.full_name}/{method.name}": [
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            ]
            for service in file.services_by_name.values()
            for method in service.methods
        },
    }


def _add(message: Descriptor, messages: dict[str, Any]) -> None:
    oneofs = {field.name: oneof.name for oneof in message.oneofs for field in oneof.fields}
    messages[message.full_name] = {
        field.name: [
            field.number,
            field.type if (kind := field.message_type or field.enum_type) is None else kind.full_name,
            "repeated" if field.is_repeated else "",
            oneofs.get(field.name, ""),
        ]
        for field in message.fields
    }
    for nested in message.nested_types:
        _add(nested, messages)


def golden() -> dict[str, dict[str, Any]]:
    """The protocol as it was released."""
    document = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def test_nothing_released_has_changed() -> None:
    """A field that is renumbered, retyped, renamed or gone fails; a removed one must be reserved instead."""
    now = described()
    for kind, released in golden().items():
        for name, content in released.items():
            if isinstance(content, dict):
                found = now[kind].get(name, {})
                assert {key: found.get(key) for key in content} == content, f"{kind}: {name}"
            else:
                assert now[kind].get(name) == content, f"{kind}: {name}"


def test_everything_is_in_the_record() -> None:
    """What was added must be written into certserve.descriptor.json, or nothing protects it."""
    assert described() == golden()


def test_no_number_has_two_meanings() -> None:
    """Within a message and within an enum, numbers differ, in the record as well: none was used again."""
    for document in (golden(), described()):
        for name, fields in document["messages"].items():
            numbers = [field[0] for field in fields.values()]
            assert len(set(numbers)) == len(numbers), name
        for name, values in document["enums"].items():
            assert len(set(values.values())) == len(values), name


def test_every_enum_begins_with_unspecified() -> None:
    """Zero is what a caller who says nothing sends."""
    for name, values in described()["enums"].items():
        (first,) = [value for value, number in values.items() if number == 0]
        assert first.endswith("_UNSPECIFIED"), name


def test_every_number_that_may_be_left_out_is_optional() -> None:
    """Without presence, a request for sigma = 0 and one for the default would be the same bytes."""
    for message in (pb.PredictRequest, pb.CertifyRequest, pb.RobustifyRequest):
        assert all(message.DESCRIPTOR.fields_by_name[name].has_presence for name in ("sigma", "n", "alpha", "image"))
    for search in (pb.CertMarginSearch, pb.BilevelSearch, pb.FastSearch):
        assert all(field.has_presence for field in search.DESCRIPTOR.fields)
