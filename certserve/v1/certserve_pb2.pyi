import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]

class ImageFit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FIT_UNSPECIFIED: _ClassVar[ImageFit]
    IMAGE_FIT_EXACT: _ClassVar[ImageFit]
    IMAGE_FIT_RESIZE_CROP: _ClassVar[ImageFit]

class Arithmetic(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARITHMETIC_UNSPECIFIED: _ClassVar[Arithmetic]
    ARITHMETIC_GRID: _ClassVar[Arithmetic]
    ARITHMETIC_FLOAT: _ClassVar[Arithmetic]

class Bound(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOUND_UNSPECIFIED: _ClassVar[Bound]
    BOUND_BINARY: _ClassVar[Bound]
    BOUND_TWO_CLASS: _ClassVar[Bound]

class Norm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORM_UNSPECIFIED: _ClassVar[Norm]
    NORM_L2: _ClassVar[Norm]
    NORM_LINF: _ClassVar[Norm]
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_UINT8: DataType
DATA_TYPE_FLOAT32: DataType
IMAGE_FIT_UNSPECIFIED: ImageFit
IMAGE_FIT_EXACT: ImageFit
IMAGE_FIT_RESIZE_CROP: ImageFit
ARITHMETIC_UNSPECIFIED: Arithmetic
ARITHMETIC_GRID: Arithmetic
ARITHMETIC_FLOAT: Arithmetic
BOUND_UNSPECIFIED: Bound
BOUND_BINARY: Bound
BOUND_TWO_CLASS: Bound
NORM_UNSPECIFIED: Norm
NORM_L2: Norm
NORM_LINF: Norm

class Image(_message.Message):
    __slots__ = ("encoded", "tensor", "fit")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    tensor: Tensor
    fit: ImageFit
    def __init__(self, encoded: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., fit: _Optional[_Union[ImageFit, str]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("data", "shape", "dtype")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: DataType
    def __init__(self, data: _Optional[bytes] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[DataType, str]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("model", "image", "sigma", "n", "alpha", "arithmetic", "nonce", "n0", "plan", "guard")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    N0_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Image
    sigma: float
    n: int
    alpha: float
    arithmetic: Arithmetic
    nonce: bytes
    n0: int
    plan: Plan
    guard: bool
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., sigma: _Optional[float] = ..., n: _Optional[int] = ..., alpha: _Optional[float] = ..., arithmetic: _Optional[_Union[Arithmetic, str]] = ..., nonce: _Optional[bytes] = ..., n0: _Optional[int] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., guard: bool = ...) -> None: ...

class CertifyRequest(_message.Message):
    __slots__ = ("model", "image", "sigma", "n0", "n", "alpha", "bound", "plan", "arithmetic", "nonce", "guard")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    N0_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Image
    sigma: float
    n0: int
    n: int
    alpha: float
    bound: Bound
    plan: Plan
    arithmetic: Arithmetic
    nonce: bytes
    guard: bool
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., sigma: _Optional[float] = ..., n0: _Optional[int] = ..., n: _Optional[int] = ..., alpha: _Optional[float] = ..., bound: _Optional[_Union[Bound, str]] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., arithmetic: _Optional[_Union[Arithmetic, str]] = ..., nonce: _Optional[bytes] = ..., guard: bool = ...) -> None: ...

class CertifyManyRequest(_message.Message):
    __slots__ = ("tag", "request")
    TAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    tag: str
    request: CertifyRequest
    def __init__(self, tag: _Optional[str] = ..., request: _Optional[_Union[CertifyRequest, _Mapping]] = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("model", "images")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    model: str
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, model: _Optional[str] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class ReformRequest(_message.Message):
    __slots__ = ("model", "images", "png")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    model: str
    images: _containers.RepeatedCompositeFieldContainer[Image]
    png: bool
    def __init__(self, model: _Optional[str] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., png: bool = ...) -> None: ...

class RobustifyRequest(_message.Message):
    __slots__ = ("model", "image", "delta", "epsilon", "norm", "method", "sigma", "n0", "n", "alpha", "bound", "nonce")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    N0_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    model: str
    image: Image
    delta: float
    epsilon: float
    norm: Norm
    method: Search
    sigma: float
    n0: int
    n: int
    alpha: float
    bound: Bound
    nonce: bytes
    def __init__(self, model: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., delta: _Optional[float] = ..., epsilon: _Optional[float] = ..., norm: _Optional[_Union[Norm, str]] = ..., method: _Optional[_Union[Search, _Mapping]] = ..., sigma: _Optional[float] = ..., n0: _Optional[int] = ..., n: _Optional[int] = ..., alpha: _Optional[float] = ..., bound: _Optional[_Union[Bound, str]] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Search(_message.Message):
    __slots__ = ("cert_margin", "bilevel", "fast")
    CERT_MARGIN_FIELD_NUMBER: _ClassVar[int]
    BILEVEL_FIELD_NUMBER: _ClassVar[int]
    FAST_FIELD_NUMBER: _ClassVar[int]
    cert_margin: CertMarginSearch
    bilevel: BilevelSearch
    fast: FastSearch
    def __init__(self, cert_margin: _Optional[_Union[CertMarginSearch, _Mapping]] = ..., bilevel: _Optional[_Union[BilevelSearch, _Mapping]] = ..., fast: _Optional[_Union[FastSearch, _Mapping]] = ...) -> None: ...

class CertMarginSearch(_message.Message):
    __slots__ = ("steps", "draws", "refinements", "step", "enough", "jpeg")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    REFINEMENTS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ENOUGH_FIELD_NUMBER: _ClassVar[int]
    JPEG_FIELD_NUMBER: _ClassVar[int]
    steps: int
    draws: int
    refinements: int
    step: float
    enough: float
    jpeg: JpegQualities
    def __init__(self, steps: _Optional[int] = ..., draws: _Optional[int] = ..., refinements: _Optional[int] = ..., step: _Optional[float] = ..., enough: _Optional[float] = ..., jpeg: _Optional[_Union[JpegQualities, _Mapping]] = ...) -> None: ...

class JpegQualities(_message.Message):
    __slots__ = ("lowest", "highest")
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    lowest: int
    highest: int
    def __init__(self, lowest: _Optional[int] = ..., highest: _Optional[int] = ...) -> None: ...

class BilevelSearch(_message.Message):
    __slots__ = ("steps", "inner_steps", "draws", "rate", "enough")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    INNER_STEPS_FIELD_NUMBER: _ClassVar[int]
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    ENOUGH_FIELD_NUMBER: _ClassVar[int]
    steps: int
    inner_steps: int
    draws: int
    rate: float
    enough: float
    def __init__(self, steps: _Optional[int] = ..., inner_steps: _Optional[int] = ..., draws: _Optional[int] = ..., rate: _Optional[float] = ..., enough: _Optional[float] = ...) -> None: ...

class FastSearch(_message.Message):
    __slots__ = ("draws", "attack_steps")
    DRAWS_FIELD_NUMBER: _ClassVar[int]
    ATTACK_STEPS_FIELD_NUMBER: _ClassVar[int]
    draws: int
    attack_steps: int
    def __init__(self, draws: _Optional[int] = ..., attack_steps: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("fixed", "target", "looks", "anytime", "time_budget")
    FIXED_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    ANYTIME_FIELD_NUMBER: _ClassVar[int]
    TIME_BUDGET_FIELD_NUMBER: _ClassVar[int]
    fixed: FixedPlan
    target: TargetPlan
    looks: LooksPlan
    anytime: AnytimePlan
    time_budget: _duration_pb2.Duration
    def __init__(self, fixed: _Optional[_Union[FixedPlan, _Mapping]] = ..., target: _Optional[_Union[TargetPlan, _Mapping]] = ..., looks: _Optional[_Union[LooksPlan, _Mapping]] = ..., anytime: _Optional[_Union[AnytimePlan, _Mapping]] = ..., time_budget: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class FixedPlan(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TargetPlan(_message.Message):
    __slots__ = ("radius", "grow")
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    GROW_FIELD_NUMBER: _ClassVar[int]
    radius: float
    grow: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, radius: _Optional[float] = ..., grow: _Optional[_Iterable[float]] = ...) -> None: ...

class LooksPlan(_message.Message):
    __slots__ = ("looks", "precision")
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    looks: _containers.RepeatedScalarFieldContainer[int]
    precision: float
    def __init__(self, looks: _Optional[_Iterable[int]] = ..., precision: _Optional[float] = ...) -> None: ...

class AnytimePlan(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("prediction", "abstention", "undecided", "rejected", "seconds", "signature")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    abstention: Abstention
    undecided: Undecided
    rejected: Rejected
    seconds: float
    signature: bytes
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., undecided: _Optional[_Union[Undecided, _Mapping]] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., seconds: _Optional[float] = ..., signature: _Optional[bytes] = ...) -> None: ...

class CertifyResponse(_message.Message):
    __slots__ = ("certificate", "abstention", "undecided", "rejected", "final", "seconds", "signature")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ABSTENTION_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    certificate: Certificate
    abstention: Abstention
    undecided: Undecided
    rejected: Rejected
    final: bool
    seconds: float
    signature: bytes
    def __init__(self, certificate: _Optional[_Union[Certificate, _Mapping]] = ..., abstention: _Optional[_Union[Abstention, _Mapping]] = ..., undecided: _Optional[_Union[Undecided, _Mapping]] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., final: bool = ..., seconds: _Optional[float] = ..., signature: _Optional[bytes] = ...) -> None: ...

class CertifyManyResponse(_message.Message):
    __slots__ = ("tag", "response", "status")
    TAG_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    tag: str
    response: CertifyResponse
    status: _status_pb2.Status
    def __init__(self, tag: _Optional[str] = ..., response: _Optional[_Union[CertifyResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("label", "label_name", "radius", "norm", "p_lower", "selection", "estimation", "setting", "origin", "statement", "p_upper", "log_e_values")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    P_LOWER_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    ESTIMATION_FIELD_NUMBER: _ClassVar[int]
    SETTING_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    P_UPPER_FIELD_NUMBER: _ClassVar[int]
    LOG_E_VALUES_FIELD_NUMBER: _ClassVar[int]
    label: int
    label_name: str
    radius: float
    norm: str
    p_lower: float
    selection: Votes
    estimation: _containers.RepeatedCompositeFieldContainer[Votes]
    setting: Setting
    origin: Origin
    statement: str
    p_upper: float
    log_e_values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, label: _Optional[int] = ..., label_name: _Optional[str] = ..., radius: _Optional[float] = ..., norm: _Optional[str] = ..., p_lower: _Optional[float] = ..., selection: _Optional[_Union[Votes, _Mapping]] = ..., estimation: _Optional[_Iterable[_Union[Votes, _Mapping]]] = ..., setting: _Optional[_Union[Setting, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., statement: _Optional[str] = ..., p_upper: _Optional[float] = ..., log_e_values: _Optional[_Iterable[float]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("label", "label_name", "p_value", "votes", "setting", "origin", "statement", "selection", "reselections")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    SETTING_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    RESELECTIONS_FIELD_NUMBER: _ClassVar[int]
    label: int
    label_name: str
    p_value: float
    votes: Votes
    setting: Setting
    origin: Origin
    statement: str
    selection: Votes
    reselections: _containers.RepeatedCompositeFieldContainer[Votes]
    def __init__(self, label: _Optional[int] = ..., label_name: _Optional[str] = ..., p_value: _Optional[float] = ..., votes: _Optional[_Union[Votes, _Mapping]] = ..., setting: _Optional[_Union[Setting, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., statement: _Optional[str] = ..., selection: _Optional[_Union[Votes, _Mapping]] = ..., reselections: _Optional[_Iterable[_Union[Votes, _Mapping]]] = ...) -> None: ...

class Abstention(_message.Message):
    __slots__ = ("candidate", "candidate_name", "p_lower", "p_value", "selection", "estimation", "setting", "origin", "statement", "p_upper", "radius")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_NAME_FIELD_NUMBER: _ClassVar[int]
    P_LOWER_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    ESTIMATION_FIELD_NUMBER: _ClassVar[int]
    SETTING_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    P_UPPER_FIELD_NUMBER: _ClassVar[int]
    RADIUS_FIELD_NUMBER: _ClassVar[int]
    candidate: int
    candidate_name: str
    p_lower: float
    p_value: float
    selection: Votes
    estimation: _containers.RepeatedCompositeFieldContainer[Votes]
    setting: Setting
    origin: Origin
    statement: str
    p_upper: float
    radius: float
    def __init__(self, candidate: _Optional[int] = ..., candidate_name: _Optional[str] = ..., p_lower: _Optional[float] = ..., p_value: _Optional[float] = ..., selection: _Optional[_Union[Votes, _Mapping]] = ..., estimation: _Optional[_Iterable[_Union[Votes, _Mapping]]] = ..., setting: _Optional[_Union[Setting, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., statement: _Optional[str] = ..., p_upper: _Optional[float] = ..., radius: _Optional[float] = ...) -> None: ...

class Undecided(_message.Message):
    __slots__ = ("reason", "setting", "origin", "statement")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SETTING_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    setting: Setting
    origin: Origin
    statement: str
    def __init__(self, reason: _Optional[str] = ..., setting: _Optional[_Union[Setting, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., statement: _Optional[str] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("detectors", "setting", "origin", "statement")
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    SETTING_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    detectors: _containers.RepeatedCompositeFieldContainer[DetectorVerdict]
    setting: Setting
    origin: Origin
    statement: str
    def __init__(self, detectors: _Optional[_Iterable[_Union[DetectorVerdict, _Mapping]]] = ..., setting: _Optional[_Union[Setting, _Mapping]] = ..., origin: _Optional[_Union[Origin, _Mapping]] = ..., statement: _Optional[str] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("verdicts", "seconds")
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    seconds: float
    def __init__(self, verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., seconds: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("detectors", "flagged", "p_value", "rate", "statement")
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    FLAGGED_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    detectors: _containers.RepeatedCompositeFieldContainer[DetectorVerdict]
    flagged: bool
    p_value: float
    rate: float
    statement: str
    def __init__(self, detectors: _Optional[_Iterable[_Union[DetectorVerdict, _Mapping]]] = ..., flagged: bool = ..., p_value: _Optional[float] = ..., rate: _Optional[float] = ..., statement: _Optional[str] = ...) -> None: ...

class DetectorVerdict(_message.Message):
    __slots__ = ("name", "score", "threshold", "p_value", "flagged", "rate", "validation_images")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLAGGED_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_IMAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    score: float
    threshold: float
    p_value: float
    flagged: bool
    rate: float
    validation_images: int
    def __init__(self, name: _Optional[str] = ..., score: _Optional[float] = ..., threshold: _Optional[float] = ..., p_value: _Optional[float] = ..., flagged: bool = ..., rate: _Optional[float] = ..., validation_images: _Optional[int] = ...) -> None: ...

class ReformResponse(_message.Message):
    __slots__ = ("reformations", "seconds")
    REFORMATIONS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    reformations: _containers.RepeatedCompositeFieldContainer[Reformation]
    seconds: float
    def __init__(self, reformations: _Optional[_Iterable[_Union[Reformation, _Mapping]]] = ..., seconds: _Optional[float] = ...) -> None: ...

class Reformation(_message.Message):
    __slots__ = ("tensor", "png", "before", "after", "l2", "linf")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    LINF_FIELD_NUMBER: _ClassVar[int]
    tensor: Tensor
    png: bytes
    before: Answer
    after: Answer
    l2: float
    linf: float
    def __init__(self, tensor: _Optional[_Union[Tensor, _Mapping]] = ..., png: _Optional[bytes] = ..., before: _Optional[_Union[Answer, _Mapping]] = ..., after: _Optional[_Union[Answer, _Mapping]] = ..., l2: _Optional[float] = ..., linf: _Optional[float] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("label", "label_name")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_NAME_FIELD_NUMBER: _ClassVar[int]
    label: int
    label_name: str
    def __init__(self, label: _Optional[int] = ..., label_name: _Optional[str] = ...) -> None: ...

class RobustifyResponse(_message.Message):
    __slots__ = ("png", "tensor", "l2", "linf", "norm", "delta", "epsilon", "method", "predicted_before", "predicted_after", "before", "after", "label_kept", "judged_safe", "seconds", "success", "radius_before", "radius_after", "uplift_efficiency", "passes")
    PNG_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    LINF_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_AFTER_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LABEL_KEPT_FIELD_NUMBER: _ClassVar[int]
    JUDGED_SAFE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    RADIUS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    RADIUS_AFTER_FIELD_NUMBER: _ClassVar[int]
    UPLIFT_EFFICIENCY_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    tensor: Tensor
    l2: float
    linf: float
    norm: Norm
    delta: float
    epsilon: float
    method: Search
    predicted_before: PredictResponse
    predicted_after: PredictResponse
    before: CertifyResponse
    after: CertifyResponse
    label_kept: bool
    judged_safe: bool
    seconds: float
    success: bool
    radius_before: float
    radius_after: float
    uplift_efficiency: float
    passes: int
    def __init__(self, png: _Optional[bytes] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., l2: _Optional[float] = ..., linf: _Optional[float] = ..., norm: _Optional[_Union[Norm, str]] = ..., delta: _Optional[float] = ..., epsilon: _Optional[float] = ..., method: _Optional[_Union[Search, _Mapping]] = ..., predicted_before: _Optional[_Union[PredictResponse, _Mapping]] = ..., predicted_after: _Optional[_Union[PredictResponse, _Mapping]] = ..., before: _Optional[_Union[CertifyResponse, _Mapping]] = ..., after: _Optional[_Union[CertifyResponse, _Mapping]] = ..., label_kept: bool = ..., judged_safe: bool = ..., seconds: _Optional[float] = ..., success: bool = ..., radius_before: _Optional[float] = ..., radius_after: _Optional[float] = ..., uplift_efficiency: _Optional[float] = ..., passes: _Optional[int] = ...) -> None: ...

class RobustifyStreamResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: RobustifyProgress
    result: RobustifyResponse
    def __init__(self, progress: _Optional[_Union[RobustifyProgress, _Mapping]] = ..., result: _Optional[_Union[RobustifyResponse, _Mapping]] = ...) -> None: ...

class RobustifyProgress(_message.Message):
    __slots__ = ("done", "planned")
    DONE_FIELD_NUMBER: _ClassVar[int]
    PLANNED_FIELD_NUMBER: _ClassVar[int]
    done: int
    planned: int
    def __init__(self, done: _Optional[int] = ..., planned: _Optional[int] = ...) -> None: ...

class Votes(_message.Message):
    __slots__ = ("counts", "non_finite")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    non_finite: int
    def __init__(self, counts: _Optional[_Iterable[int]] = ..., non_finite: _Optional[int] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("sigma", "n0", "n", "alpha", "plan", "looks", "bound", "arithmetic", "stream", "arithmetic_error", "nonce", "schedule")
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    N0_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    LOOKS_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ARITHMETIC_ERROR_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    sigma: float
    n0: int
    n: int
    alpha: float
    plan: str
    looks: _containers.RepeatedScalarFieldContainer[int]
    bound: Bound
    arithmetic: Arithmetic
    stream: str
    arithmetic_error: float
    nonce: str
    schedule: Schedule
    def __init__(self, sigma: _Optional[float] = ..., n0: _Optional[int] = ..., n: _Optional[int] = ..., alpha: _Optional[float] = ..., plan: _Optional[str] = ..., looks: _Optional[_Iterable[int]] = ..., bound: _Optional[_Union[Bound, str]] = ..., arithmetic: _Optional[_Union[Arithmetic, str]] = ..., stream: _Optional[str] = ..., arithmetic_error: _Optional[float] = ..., nonce: _Optional[str] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("every", "alphas", "runner_up_alphas", "radii", "precision")
    EVERY_FIELD_NUMBER: _ClassVar[int]
    ALPHAS_FIELD_NUMBER: _ClassVar[int]
    RUNNER_UP_ALPHAS_FIELD_NUMBER: _ClassVar[int]
    RADII_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    every: int
    alphas: _containers.RepeatedScalarFieldContainer[float]
    runner_up_alphas: _containers.RepeatedScalarFieldContainer[float]
    radii: _containers.RepeatedScalarFieldContainer[float]
    precision: float
    def __init__(self, every: _Optional[int] = ..., alphas: _Optional[_Iterable[float]] = ..., runner_up_alphas: _Optional[_Iterable[float]] = ..., radii: _Optional[_Iterable[float]] = ..., precision: _Optional[float] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("model", "version", "execution", "fingerprint", "commitment", "space")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    execution: str
    fingerprint: str
    commitment: str
    space: Space
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., execution: _Optional[str] = ..., fingerprint: _Optional[str] = ..., commitment: _Optional[str] = ..., space: _Optional[_Union[Space, _Mapping]] = ...) -> None: ...

class Space(_message.Message):
    __slots__ = ("description", "shape", "units", "digest")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    description: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    units: str
    digest: str
    def __init__(self, description: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., units: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "description", "labels", "shape", "colour", "resize", "sigmas", "defaults", "largest_n", "execution", "commitment", "public_key", "magnet", "robustify", "largest_passes", "surrogate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SIGMAS_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    LARGEST_N_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    MAGNET_FIELD_NUMBER: _ClassVar[int]
    ROBUSTIFY_FIELD_NUMBER: _ClassVar[int]
    LARGEST_PASSES_FIELD_NUMBER: _ClassVar[int]
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    description: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    shape: _containers.RepeatedScalarFieldContainer[int]
    colour: str
    resize: int
    sigmas: _containers.RepeatedScalarFieldContainer[float]
    defaults: Defaults
    largest_n: int
    execution: Execution
    commitment: str
    public_key: bytes
    magnet: Magnet
    robustify: bool
    largest_passes: int
    surrogate: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., shape: _Optional[_Iterable[int]] = ..., colour: _Optional[str] = ..., resize: _Optional[int] = ..., sigmas: _Optional[_Iterable[float]] = ..., defaults: _Optional[_Union[Defaults, _Mapping]] = ..., largest_n: _Optional[int] = ..., execution: _Optional[_Union[Execution, _Mapping]] = ..., commitment: _Optional[str] = ..., public_key: _Optional[bytes] = ..., magnet: _Optional[_Union[Magnet, _Mapping]] = ..., robustify: bool = ..., largest_passes: _Optional[int] = ..., surrogate: bool = ...) -> None: ...

class Magnet(_message.Message):
    __slots__ = ("detectors", "rate", "reformer")
    DETECTORS_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    REFORMER_FIELD_NUMBER: _ClassVar[int]
    detectors: _containers.RepeatedCompositeFieldContainer[Detector]
    rate: float
    reformer: str
    def __init__(self, detectors: _Optional[_Iterable[_Union[Detector, _Mapping]]] = ..., rate: _Optional[float] = ..., reformer: _Optional[str] = ...) -> None: ...

class Detector(_message.Message):
    __slots__ = ("name", "rate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    rate: float
    def __init__(self, name: _Optional[str] = ..., rate: _Optional[float] = ...) -> None: ...

class Defaults(_message.Message):
    __slots__ = ("sigma", "n0", "n", "alpha", "predict_n")
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    N0_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    PREDICT_N_FIELD_NUMBER: _ClassVar[int]
    sigma: float
    n0: int
    n: int
    alpha: float
    predict_n: int
    def __init__(self, sigma: _Optional[float] = ..., n0: _Optional[int] = ..., n: _Optional[int] = ..., alpha: _Optional[float] = ..., predict_n: _Optional[int] = ...) -> None: ...

class Execution(_message.Message):
    __slots__ = ("name", "runtime", "precision", "device", "fingerprint", "batch_shapes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SHAPES_FIELD_NUMBER: _ClassVar[int]
    name: str
    runtime: str
    precision: str
    device: str
    fingerprint: str
    batch_shapes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., runtime: _Optional[str] = ..., precision: _Optional[str] = ..., device: _Optional[str] = ..., fingerprint: _Optional[str] = ..., batch_shapes: _Optional[_Iterable[int]] = ...) -> None: ...

class GetSurrogateRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetSurrogateResponse(_message.Message):
    __slots__ = ("surrogate", "data")
    SURROGATE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    surrogate: Surrogate
    data: bytes
    def __init__(self, surrogate: _Optional[_Union[Surrogate, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Surrogate(_message.Message):
    __slots__ = ("model", "digest", "size", "architecture")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    model: Model
    digest: str
    size: int
    architecture: str
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., digest: _Optional[str] = ..., size: _Optional[int] = ..., architecture: _Optional[str] = ...) -> None: ...
