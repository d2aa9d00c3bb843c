"""What a bundle says of its model, as values checked when they are built.

Every BundleError here is one sentence about one value; `certserve.bundle.storage` adds which bundle it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from certserve.bundle.magnet import Magnet
from certserve.errors import BundleError

__all__ = ["CHANNELS", "MANIFEST", "Bundle", "Defaults", "Execution", "onnx_executions"]

MANIFEST = "model.toml"
CHANNELS = {"grey": 1, "rgb": 3, "bgr": 3}
_LARGEST_DRAWS = 10_000_000


@dataclass(frozen=True, slots=True)
class Execution:
    """One way of running a bundle.

    Attributes:
        name: in words. file: in the bundle. runtime: for example "onnx"; the table of `certserve.backends` decides.
        precision: of its arithmetic, for example "float32".
        probe_labels: of the patterned probes, when it was accepted; given for quantised executions, which are refused
            on a machine where too many labels differ.
    """

    name: str
    file: str
    runtime: str
    precision: str
    probe_labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _named("an execution", name=self.name, runtime=self.runtime, precision=self.precision)
        _plain(self.file)


def onnx_executions(file: str, precision: str) -> tuple[Execution, ...]:
    """The ways of running an ONNX file, whose weights are of the given precision."""
    by_openvino = {"float32": ("float32", "bfloat16"), "int8": ("int8",), "int8-7bit": ("int8-7bit",)}
    openvino = (Execution(name, file, "openvino", name) for name in by_openvino.get(precision, ()))
    return (
        *openvino,
        Execution(f"onnxruntime-{precision}", file, "onnx", precision),
        Execution(f"onnxruntime-cuda-{precision}", file, "onnx-cuda", precision),
    )


@dataclass(frozen=True, slots=True)
class Defaults:
    """What fills the fields that a request leaves out.

    Attributes:
        sigma: noise level in input units, one of the bundle's. n0, n: selection and estimation draws of Certify,
            1 to 10,000,000 each. alpha: failure probability, strictly between 0 and 1. predict_n: draws of Predict.
    """

    sigma: float
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    predict_n: int = 1_000

    def __post_init__(self) -> None:
        for name, draws in (("n0", self.n0), ("n", self.n), ("predict_n", self.predict_n)):
            if not 1 <= draws <= _LARGEST_DRAWS:
                raise BundleError(f"the default {name} must lie in 1..{_LARGEST_DRAWS}, not {draws}")
        if not 0.0 < self.alpha < 1.0:
            raise BundleError(f"the default alpha must lie strictly between 0 and 1, not {self.alpha!r}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model on disk, as its `model.toml` describes it.

    Attributes:
        path: the directory. labels: of the classes, in the order of the logits.
        shape: (channels, height, width) of its input; pixels in [0, 1]. colour: "grey", "rgb" or "bgr".
        resize: pixels; the length the shorter side is resized to before the centre crop; None: just enough.
        sigmas: the noise levels, in input units, that the model was trained for.
        executions: the ways of running it; which one serves, `certserve.backends.choice` says.
        digests: file name -> SHA-256 in hexadecimal. provenance: where the model is from, in free words.
        magnet: its detectors and reformer, where it has them.

    Raises:
        BundleError: a value is out of its range; one sentence.
    """

    path: Path
    name: str
    version: str
    description: str
    labels: tuple[str, ...]
    shape: tuple[int, int, int]
    colour: str
    resize: int | None
    sigmas: tuple[float, ...]
    defaults: Defaults
    executions: tuple[Execution, ...]
    digests: Mapping[str, str]
    provenance: Mapping[str, str]
    magnet: Magnet | None = None

    def __post_init__(self) -> None:
        _named("the model", name=self.name, version=self.version)
        if len(self.labels) < 2 or not all(label.strip() for label in self.labels):
            raise BundleError(f"labels must name at least two classes, none of them blank, not {self.labels!r:.200}")
        self._check_input()
        if not self.sigmas or not all(math.isfinite(s) and s > 0 for s in self.sigmas):
            raise BundleError(f"sigmas must be one or more positive numbers, not {self.sigmas!r:.200}")
        if len(set(self.sigmas)) < len(self.sigmas):
            raise BundleError(f"sigmas must differ from each other, which {self.sigmas!r:.200} do not")
        if self.defaults.sigma not in self.sigmas:
            raise BundleError(f"the default sigma must be one of {self.sigmas!r:.200}, not {self.defaults.sigma!r}")
        self._check_executions()
        for file in self.magnet.files if self.magnet else ():
            if file not in self.digests:
                raise BundleError(f"magnet names the file {file!r}, which has no digest")

    def execution(self, name: str) -> Execution:
        """The execution of that name.

        Raises:
            BundleError: there is none; the names there are.
        """
        for execution in self.executions:
            if execution.name == name:
                return execution
        known = ", ".join(execution.name for execution in self.executions)
        raise BundleError(f"{self.path}: has no execution {name!r}; there are {known}")

    def file(self, name: str) -> Path:
        """Where a file of the bundle is.

        Raises:
            BundleError: the bundle has no such file.
        """
        if name not in self.digests:
            raise BundleError(f"{self.path}: has no file {name!r}; its files are {', '.join(self.digests)}")
        return self.path / name

    def _check_input(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise BundleError(f"shape must be [channels, height, width], each at least 1, not {list(self.shape)}")
        if CHANNELS.get(self.colour) != self.shape[0]:
            expected = ", ".join(f"{colour} ({channels} channels)" for colour, channels in CHANNELS.items())
            raise BundleError(f"colour must be one of {expected} and fit the shape, not {self.colour!r} "
                              f"with {self.shape[0]} channels")  # fmt: skip
        if self.resize is not None and self.resize < max(self.shape[1:]):
            raise BundleError(f"resize must be at least the model's height and width, not {self.resize}")

    def _check_executions(self) -> None:
        names = [execution.name for execution in self.executions]
        if not names or len(set(names)) < len(names):
            raise BundleError(f"executions must be one or more with different names, not {names}")
        for name, digest in self.digests.items():
            _plain(name)
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise BundleError(f"the digest of {name!r} must be a SHA-256 in lower-case hexadecimal, not {digest!r}")
        for execution in self.executions:
            if execution.file not in self.digests:
                raise BundleError(f"the execution {execution.name!r} names {execution.file!r}, which has no digest")


def _named(whose: str, **texts: str) -> None:
    for field, text in texts.items():
        if not text.strip():
            raise BundleError(f"{whose} must have a {field} that is not blank")


def _plain(name: str) -> None:
    """Refuse every file name that is not one plain component."""
    if name != Path(name).name or name in ("", "..", MANIFEST) or "\\" in name or not name.isprintable():
        raise BundleError(f"a bundle's files lie directly in its directory, under plain names; {name!r} is none")
