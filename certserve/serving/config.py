"""How a server is set up: one frozen tree, read from one TOML file; unknown keys are errors.

Statistical parameters are fields of requests; here are only defaults of operation and limits.
"""

from __future__ import annotations

import ipaddress
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from certserve.images import Limits
from certserve.smoothing.bounds import LARGEST_N

__all__ = [
    "Address",
    "Config",
    "ConfigError",
    "NoiseConfig",
    "RequestLimits",
    "RobustifyConfig",
    "Security",
    "read_config",
]

Section = TypeVar("Section")


class ConfigError(ValueError):
    """The configuration cannot be used; one sentence that says what to change."""


@dataclass(frozen=True, slots=True)
class Address:
    """[server]: where to listen; how long calls in progress may take to finish at the end, in seconds; the execution
    that every model runs (empty: as `certserve doctor` says); whether each runs in a process of its own; whether each
    has its reformer before the classifier.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    grace_seconds: float = 30.0
    execution: str = ""
    isolate: bool = False
    reform: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"server.port must lie in 0..65535, not {self.port}")
        if not 0 <= self.grace_seconds < math.inf:
            raise ConfigError(f"server.grace_seconds must be 0 or a positive number, not {self.grace_seconds}")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class Security:
    """[security]: PEM files for TLS; a file that holds the bearer token callers must send; a PEM file with the Ed25519
    key that signs every answer (empty: they are not signed); whether bundles whose file can run code of its own
    (torch.export) are loaded.
    """

    tls_certificate: str = ""
    tls_key: str = ""
    token_file: str = ""
    signing_key_file: str = ""
    allow_insecure: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError("security.tls_certificate and security.tls_key go together; give both or neither")

    @property
    def missing(self) -> tuple[str, ...]:
        """What a server that others can reach should have, and this one has not."""
        wanted = {"TLS (--tls-certificate, --tls-key)": self.tls_certificate, "a token (--token-file)": self.token_file}
        return tuple(name for name, value in wanted.items() if not value)


@dataclass(frozen=True, slots=True)
class NoiseConfig:
    """[noise]: a file of 64 hexadecimal digits, so that restarts and replicas share the secret; empty: a fresh one."""

    secret_file: str = ""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """[limits]: the largest n and n0, and the largest image in bytes and in pixels."""

    largest_n: int = LARGEST_N
    image_bytes: int = Limits().max_bytes
    image_pixels: int = Limits().max_pixels

    def __post_init__(self) -> None:
        if not 1 <= self.largest_n <= LARGEST_N:
            raise ConfigError(f"limits.largest_n must lie in 1..{LARGEST_N}, not {self.largest_n}")
        if self.image_bytes < 1 or self.image_pixels < 1:
            raise ConfigError("limits.image_bytes and limits.image_pixels must be positive")

    @property
    def images(self) -> Limits:
        return Limits(self.image_bytes, self.image_pixels)


@dataclass(frozen=True, slots=True)
class RobustifyConfig:
    """[robustify]: whether Robustify is answered; how many searches run at once, and how many requests may be in
    progress beside those; the most passes through the network that a request may ask for; torch's threads for each
    search; whether GetSurrogate hands the models' weights to whoever may call.
    """

    enabled: bool = True
    at_once: int = 1
    waiting: int = 8
    largest_passes: int = 12_000
    threads: int = 1
    surrogate: bool = False

    def __post_init__(self) -> None:
        for name, least in (("at_once", 1), ("waiting", 0), ("largest_passes", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"robustify.{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole. `models`: bundle directories or names of packaged models, the default one first.

    Raises:
        ConfigError: the server would listen for other machines without TLS and a token.
    """

    models: tuple[str, ...] = ()
    server: Address = field(default_factory=Address)
    security: Security = field(default_factory=Security)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    limits: RequestLimits = field(default_factory=RequestLimits)
    robustify: RobustifyConfig = field(default_factory=RobustifyConfig)

    def __post_init__(self) -> None:
        if self.security.missing and not (self.server.is_loopback or self.security.allow_insecure):
            raise ConfigError(
                f"other machines could reach {self.server.host} without {' and '.join(self.security.missing)}; "
                "give both, listen on 127.0.0.1, or say --allow-insecure"
            )


def read_config(path: Path | None, overrides: Mapping[str, Mapping[str, Any]], models: tuple[str, ...] = ()) -> Config:
    """The file's configuration, with what the command line gives on top; None values there are left out.

    Raises:
        ConfigError: the file cannot be read, or a key or value in it is not understood.
    """
    document = _parse(path) if path else {}
    sections: dict[str, type[Any]] = {
        "server": Address,
        "security": Security,
        "noise": NoiseConfig,
        "limits": RequestLimits,
        "robustify": RobustifyConfig,
    }
    unknown = sorted(set(document) - {*sections, "models"})
    if unknown:
        raise ConfigError(f"{path}: unknown sections {unknown}; there are models, {', '.join(sections)}")
    for name in set(document) & set(sections):
        if not isinstance(document[name], dict):
            raise ConfigError(f"{path}: {name} must be a section, [{name}], not {document[name]!r}")
    listed = document.get("models", [])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{path}: models must be a list of names or directories")
    built: dict[str, Any] = {
        name: _section(kind, {**document.get(name, {}), **_given(overrides.get(name, {}))}, name)
        for name, kind in sections.items()
    }
    return Config(models=models or tuple(listed), **built)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _section(kind: type[Section], values: Mapping[str, Any], name: str) -> Section:
    known = {f.name: type(f.default) for f in fields(kind)}  # type: ignore[arg-type]
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"unknown key {name}.{key}; there are {', '.join(known)}")
        wanted = (int, float) if known[key] is float else known[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and known[key] is not bool):
            raise ConfigError(f"{name}.{key} must be of type {known[key].__name__}, not {value!r}")
    return kind(**values)
