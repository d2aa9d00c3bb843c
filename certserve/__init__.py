"""certserve: answers with a certified radius.

    with certserve.open("bundle") as model:            # in this process
        outcome = model.certify(image, n=10_000)
    with certserve.Client("host:port") as model:       # the same methods over gRPC
        outcome = model.certify(image, n=10_000)

Importing this package loads neither torch, onnxruntime, openvino nor grpc; names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from certserve.client import AsyncClient, Client
    from certserve.endpoints.answers import Reformation
    from certserve.endpoints.local import LocalModel
    from certserve.endpoints.local import open_model as open
    from certserve.endpoints.plans import AnytimePlan, FixedPlan, LooksPlan, TargetPlan
    from certserve.endpoints.requests import ModelInfo
    from certserve.endpoints.verification import verify
    from certserve.errors import CertserveError
    from certserve.images import EncodedImage, ImageFit, RawImage
    from certserve.noise.arithmetic import Arithmetic
    from certserve.noise.keystream import Secret
    from certserve.smoothing.document import from_document, to_document
    from certserve.smoothing.outcomes import Abstention, Bound, Certificate, Prediction, Rejected, Undecided
    from certserve.smoothing.verdicts import DetectorVerdict, Verdict

__version__ = "0.1.0"

_HOME = {
    "Abstention": "certserve.smoothing.outcomes",
    "AnytimePlan": "certserve.endpoints.plans",
    "Arithmetic": "certserve.noise.arithmetic",
    "AsyncClient": "certserve.client",
    "Bound": "certserve.smoothing.outcomes",
    "Certificate": "certserve.smoothing.outcomes",
    "CertserveError": "certserve.errors",
    "Client": "certserve.client",
    "DetectorVerdict": "certserve.smoothing.verdicts",
    "EncodedImage": "certserve.images",
    "FixedPlan": "certserve.endpoints.plans",
    "ImageFit": "certserve.images",
    "LocalModel": "certserve.endpoints.local",
    "LooksPlan": "certserve.endpoints.plans",
    "ModelInfo": "certserve.endpoints.requests",
    "Prediction": "certserve.smoothing.outcomes",
    "RawImage": "certserve.images",
    "Reformation": "certserve.endpoints.answers",
    "Rejected": "certserve.smoothing.outcomes",
    "Secret": "certserve.noise.keystream",
    "TargetPlan": "certserve.endpoints.plans",
    "Undecided": "certserve.smoothing.outcomes",
    "Verdict": "certserve.smoothing.verdicts",
    "from_document": "certserve.smoothing.document",
    "open": "certserve.endpoints.local:open_model",
    "to_document": "certserve.smoothing.document",
    "verify": "certserve.endpoints.verification",
}

__all__ = [
    "Abstention",
    "AnytimePlan",
    "Arithmetic",
    "AsyncClient",
    "Bound",
    "Certificate",
    "CertserveError",
    "Client",
    "DetectorVerdict",
    "EncodedImage",
    "FixedPlan",
    "ImageFit",
    "LocalModel",
    "LooksPlan",
    "ModelInfo",
    "Prediction",
    "RawImage",
    "Reformation",
    "Rejected",
    "Secret",
    "TargetPlan",
    "Undecided",
    "Verdict",
    "__version__",
    "from_document",
    "open",
    "to_document",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'certserve' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
