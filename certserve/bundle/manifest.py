"""`model.toml` <-> Bundle.

Every key is known, of its type and used; anything else is an error that names the key.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from certserve.bundle.description import Bundle, Defaults, Execution
from certserve.bundle.magnet import Autoencoder, Detector, Magnet
from certserve.errors import BundleError

__all__ = ["interpret", "render"]

_FORMAT = 1
_LABELS_A_LINE = 32
_LARGEST_EXACT = 2**53  # integers up to here are numbers without loss
_TOML_TYPES = {str: "a string", int: "an integer", float: "a number", list: "an array", dict: "a table"}

T = TypeVar("T")


def interpret(text: bytes, path: Path) -> Bundle:
    """The bundle that the manifest of the directory `path` describes.

    Raises:
        BundleError: not TOML, of another format, or a key is missing, unknown, of the wrong type or out of range.
    """
    try:
        top = _Table("", tomllib.loads(text.decode("utf-8")))
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, nested too deeply
        raise BundleError(f"model.toml is not valid TOML ({error}); correct it or create the bundle again") from error
    if top.take("format", int) != _FORMAT:
        raise BundleError(f"model.toml must say format = {_FORMAT}; another version of certserve wrote this bundle")
    model = _Table("input", top.take("input", dict))
    bundle = Bundle(
        path=path,
        name=top.take("name", str),
        version=top.take("version", str),
        description=top.take("description", str),
        labels=tuple(top.each("labels", str)),
        shape=_shape(model.each("shape", int)),
        colour=model.take("colour", str),
        resize=model.take("resize", int) if "resize" in model else None,
        sigmas=tuple(top.each("sigmas", float)),
        defaults=_defaults(_Table("defaults", top.take("defaults", dict))),
        executions=tuple(_execution(_Table("executions", row)) for row in top.each("executions", dict)),
        digests=_texts(_Table("digests", top.take("digests", dict))),
        provenance=_texts(_Table("provenance", top.take("provenance", dict))),
        magnet=_magnet(_Table("magnet", top.take("magnet", dict))) if "magnet" in top else None,
    )
    model.finish()
    top.finish()
    return bundle


def render(bundle: Bundle) -> bytes:
    """The manifest from which `interpret` gives the same bundle.

    Raises:
        BundleError: a text cannot be written as UTF-8.
    """
    resize = [] if bundle.resize is None else [f"resize = {bundle.resize}  # pixels; the shorter side, before cropping"]
    lines = [
        f"format = {_FORMAT}",
        f"name = {_quoted(bundle.name)}",
        f"version = {_quoted(bundle.version)}",
        f"description = {_quoted(bundle.description)}",
        "# noise levels the model was trained for: standard deviations, in units of pixels in [0, 1]",
        f"sigmas = [{', '.join(map(_number, bundle.sigmas))}]",
        "# of the classes, in the order of the logits",
        "labels = [",
        *(f"    {_quoted(label)}," for label in bundle.labels),
        "]",
        "",
        "[input]  # pixels in [0, 1]; normalisation is inside the model",
        f"shape = [{', '.join(map(str, bundle.shape))}]  # channels, height, width",
        f"colour = {_quoted(bundle.colour)}",
        *resize,
        "",
        "[defaults]  # for what a request leaves out",
        f"sigma = {_number(bundle.defaults.sigma)}",
        f"n0 = {bundle.defaults.n0}  # selection draws of Certify",
        f"n = {bundle.defaults.n}  # estimation draws of Certify",
        f"alpha = {_number(bundle.defaults.alpha)}  # failure probability of the whole answer",
        f"predict_n = {bundle.defaults.predict_n}  # draws of Predict",
        "",
        *(line for execution in bundle.executions for line in _execution_lines(execution)),
        *_magnet_lines(bundle.magnet),
        "[digests]  # SHA-256",
        *_pairs(bundle.digests),
        "",
        "[provenance]",
        *_pairs(bundle.provenance),
    ]
    try:
        return ("\n".join(lines) + "\n").encode("utf-8")
    except UnicodeEncodeError as error:
        raise BundleError(f"a text is not valid Unicode ({error.reason}); remove the broken character") from error


class _Table:
    """A TOML table being read. Every key is taken once; what is left at the end is unknown."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._prefix = f"{name}." if name else ""
        self._left = dict(values)

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._left))

    def take(self, key: str, kind: type[T]) -> T:
        if key not in self._left:
            raise BundleError(f"model.toml has no {self._prefix}{key}, {_TOML_TYPES[kind]}; add it")
        return _typed(self._left.pop(key), kind, self._prefix + key)

    def each(self, key: str, kind: type[T]) -> list[T]:
        return [_typed(value, kind, f"every entry of {self._prefix}{key}") for value in self.take(key, list)]

    def finish(self) -> None:
        for key in self._left:
            raise BundleError(f"model.toml has an unknown key {self._prefix + key!r}; correct or remove it")


def _typed(value: Any, kind: type[T], what: str) -> T:
    if kind is float and type(value) is int and abs(value) <= _LARGEST_EXACT:
        value = float(value)
    if type(value) is not kind:  # bool is no int here
        raise BundleError(f"model.toml: {what} must be {_TOML_TYPES[kind]}, not {value!r:.100}")
    return value


def _shape(lengths: list[int]) -> tuple[int, int, int]:
    if len(lengths) != 3:
        raise BundleError(f"model.toml: input.shape must be [channels, height, width], not {lengths!r:.100}")
    return (lengths[0], lengths[1], lengths[2])


def _defaults(table: _Table) -> Defaults:
    defaults = Defaults(
        sigma=table.take("sigma", float),
        n0=table.take("n0", int),
        n=table.take("n", int),
        alpha=table.take("alpha", float),
        predict_n=table.take("predict_n", int),
    )
    table.finish()
    return defaults


def _execution(table: _Table) -> Execution:
    execution = Execution(
        name=table.take("name", str),
        file=table.take("file", str),
        runtime=table.take("runtime", str),
        precision=table.take("precision", str),
        probe_labels=tuple(table.each("probe_labels", int)) if "probe_labels" in table else (),
    )
    table.finish()
    return execution


def _magnet(table: _Table) -> Magnet:
    magnet = Magnet(
        autoencoders=tuple(
            _autoencoder(_Table("magnet.autoencoders", row)) for row in table.each("autoencoders", dict)
        ),
        detectors=tuple(_detector(_Table("magnet.detectors", row)) for row in table.each("detectors", dict)),
        reformer=table.take("reformer", str),
        precision=table.take("precision", str),
    )
    table.finish()
    return magnet


def _autoencoder(table: _Table) -> Autoencoder:
    autoencoder = Autoencoder(
        name=table.take("name", str),
        file=table.take("file", str),
        weights=table.take("weights", str) if "weights" in table else "",
    )
    table.finish()
    return autoencoder


def _detector(table: _Table) -> Detector:
    detector = Detector(
        kind=table.take("kind", str),
        autoencoder=table.take("autoencoder", str),
        scores=table.take("scores", str),
        rate=table.take("rate", float),
        temperature=table.take("temperature", float) if "temperature" in table else None,
    )
    table.finish()
    return detector


def _texts(table: _Table) -> dict[str, str]:
    return {key: table.take(key, str) for key in table}


def _execution_lines(execution: Execution) -> list[str]:
    return [
        "[[executions]]",
        f"name = {_quoted(execution.name)}",
        f"file = {_quoted(execution.file)}",
        f"runtime = {_quoted(execution.runtime)}",
        f"precision = {_quoted(execution.precision)}",
        *_probe_lines(execution),
        "",
    ]


def _probe_lines(execution: Execution) -> list[str]:
    if not execution.probe_labels:
        return []
    labels = execution.probe_labels
    rows = [labels[i : i + _LABELS_A_LINE] for i in range(0, len(labels), _LABELS_A_LINE)]
    return ["probe_labels = [", *(f"    {', '.join(map(str, row))}," for row in rows), "]"]


def _magnet_lines(magnet: Magnet | None) -> list[str]:
    if magnet is None:
        return []
    lines = [
        "[magnet]  # detectors and reformer (Meng and Chen 2017): no guarantee follows from them",
        f"reformer = {_quoted(magnet.reformer)}  # an autoencoder; empty: none",
        f"precision = {_quoted(magnet.precision)}  # of the classifier that the detectors of the kind jsd compare",
        "",
    ]
    for autoencoder in magnet.autoencoders:
        weights = [f"weights = {_quoted(autoencoder.weights)}"] if autoencoder.weights else []
        lines += ["[[magnet.autoencoders]]", f"name = {_quoted(autoencoder.name)}"]
        lines += [f"file = {_quoted(autoencoder.file)}", *weights, ""]
    for detector in magnet.detectors:
        warmth = [] if detector.temperature is None else [f"temperature = {_number(detector.temperature)}"]
        lines += ["[[magnet.detectors]]", f"kind = {_quoted(detector.kind)}", *warmth]
        lines += [f"autoencoder = {_quoted(detector.autoencoder)}"]
        lines += [f"scores = {_quoted(detector.scores)}  # of the validation images, increasing"]
        lines += [f"rate = {_number(detector.rate)}  # nominal false-positive rate", ""]
    return lines


def _pairs(texts: Mapping[str, str]) -> list[str]:
    return [f"{_quoted(key)} = {_quoted(text)}" for key, text in texts.items()]


def _number(value: float) -> str:
    return repr(float(value))


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, save that TOML also wants U+007F escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
