"""A served model's weights, made a bundle of again by those who would rather search where their images are.

Nothing of what came is trusted but its numbers: digest and network are checked, and nothing in it is ever run.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from certserve import bundle
from certserve.bundle import Bundle, Execution
from certserve.endpoints.requests import ModelInfo
from certserve.errors import BundleError

__all__ = ["Surrogate", "architecture_of"]

_ARCHITECTURE = "certserve.architecture"  # where the metadata of `certserve.backends.architectures` have it
_FILE = "model.safetensors"
_LENGTH_BYTES = 8  # of a safetensors file's header, little-endian


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A model's weights as they came.

    Attributes:
        model: of what they are the weights. architecture: which network they are for, as JSON.
        digest: SHA-256 of the file, in hexadecimal, as it was said. data: the safetensors file.
    """

    model: ModelInfo
    architecture: str
    digest: str
    data: bytes = field(repr=False)

    def store(self, directory: Path) -> Bundle:
        """A new bundle of them, with the model's name, labels and defaults, that runs in torch.

        Args:
            directory: must not exist, or be empty.

        Raises:
            BundleError: the file is not the one that the digest is of, holds no in-tree network or one that does not
                fit the model; nothing was written. Or as `certserve.bundle.write`.
        """
        self._check()
        info = self.model
        return bundle.write(
            directory,
            {_FILE: self.data},
            name=info.name,
            labels=info.labels,
            shape=(info.shape[0], info.shape[1], info.shape[2]),
            sigmas=info.sigmas,
            executions=[Execution(f"torch-{p}", _FILE, "torch", p) for p in ("float32", "bfloat16")],
            colour=info.colour,
            resize=info.resize or None,
            version=info.version,
            description=info.description,
            defaults=info.defaults,
            provenance={"surrogate_of": f"{info.name} {info.version}", "served_by": info.execution.fingerprint},
        )

    def _check(self) -> None:
        from certserve.backends.architectures import load

        found = hashlib.sha256(self.data).hexdigest()
        if found != self.digest:
            raise BundleError(
                f"the weights that came have the digest {found}, not {self.digest}; they were changed on the way or "
                "are others, so fetch them again"
            )
        if architecture_of(self.data) != self.architecture:
            raise BundleError("the weights that came are for another network than was said; nothing was written")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / _FILE
            path.write_bytes(self.data)
            try:
                described = load(path).description
            except BundleError as error:
                why = str(error).removeprefix(f"{path}: ")
                raise BundleError(f"the weights that came cannot be used: {why}; nothing was written") from error
        if described.shape != tuple(self.model.shape) or described.classes != len(self.model.labels):
            raise BundleError(
                f"the weights that came are for {described.shape} and {described.classes} classes, the model has "
                f"{tuple(self.model.shape)} and {len(self.model.labels)}; nothing was written"
            )


def architecture_of(data: bytes) -> str:
    """Which network a safetensors file says it is for, as JSON.

    Raises:
        BundleError: it is no such file, or says nothing.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        named = header["__metadata__"][_ARCHITECTURE]
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise BundleError("expected a safetensors file that names its architecture") from error
    if not isinstance(named, str):
        raise BundleError("expected a safetensors file that names its architecture")
    return named
