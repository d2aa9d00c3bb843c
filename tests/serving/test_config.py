"""What a server's configuration may be, and what is said of one that may not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from certserve.serving.config import (
    Address,
    Config,
    ConfigError,
    NoiseConfig,
    RequestLimits,
    RobustifyConfig,
    Security,
    read_config,
)
from certserve.smoothing.bounds import LARGEST_N

WHOLE = """
models = ["a", "bundles/b"]
[server]
host = "127.0.0.2"
port = 9000
grace_seconds = 5
execution = "float32"
isolate = true
reform = true
[security]
tls_certificate = "server.pem"
tls_key = "server.key"
token_file = "token"
signing_key_file = "signing.pem"
allow_insecure = false
trust = true
[noise]
secret_file = "secret"
[limits]
largest_n = 1000
image_bytes = 2000
image_pixels = 3000
[robustify]
enabled = false
at_once = 2
waiting = 3
largest_passes = 4
threads = 5
surrogate = true
"""


def read(folder: Path, text: str, **overrides: Any) -> Config:
    """The configuration of a file with that text."""
    path = folder / "server.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path, overrides)


class TestReading:
    """Files, and the command line on top of them."""

    def test_nothing_at_all(self) -> None:
        """Loopback, the packaged model, a fresh secret."""
        config = read_config(None, {})
        assert config == Config()
        assert config.server.is_loopback
        assert (config.models, config.noise.secret_file, config.limits.largest_n) == ((), "", LARGEST_N)

    def test_everything(self, tmp_path: Path) -> None:
        """Every key there is."""
        assert read(tmp_path, WHOLE) == Config(
            models=("a", "bundles/b"),
            server=Address("127.0.0.2", 9000, 5, "float32", True, True),
            security=Security("server.pem", "server.key", "token", "signing.pem", False, True),
            noise=NoiseConfig("secret"),
            limits=RequestLimits(1000, 2000, 3000),
            robustify=RobustifyConfig(False, 2, 3, 4, 5, True),
        )

    def test_every_key_is_in_the_example_above(self) -> None:
        """A new key comes with a test."""
        for section in dataclasses.fields(Config):
            assert section.name in WHOLE
        for kind in (Address, Security, NoiseConfig, RequestLimits, RobustifyConfig):
            for key in dataclasses.fields(kind):
                assert f"{key.name} =" in WHOLE

    def test_the_command_line_wins(self, tmp_path: Path) -> None:
        """Only what it says; None is not said."""
        config = read(tmp_path, WHOLE, server={"port": 1, "host": None}, noise={"secret_file": "other"})
        assert (config.server.host, config.server.port, config.noise.secret_file) == ("127.0.0.2", 1, "other")

    def test_models_of_the_command_line_replace_the_files(self, tmp_path: Path) -> None:
        """They are not added: the first one is the default model."""
        path = tmp_path / "server.toml"
        path.write_text(WHOLE, encoding="utf-8")
        assert read_config(path, {}, ("c",)).models == ("c",)


class TestRefusing:
    """One sentence that names what is wrong."""

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("[serve]\nport = 1", "serve"),
            ("model = 'a'", "model"),
            ("[server]\nprot = 1", r"server\.prot.*port"),
            ("[security]\ntoken = 'x'", r"security\.token.*token_file"),
            ("[noise]\nsecret = 'x'", r"noise\.secret"),
            ("[limits]\nlargest = 1", r"limits\.largest"),
            ("[server]\nport = '8700'", r"server\.port.*int"),
            ("[server]\nport = true", r"server\.port.*int"),
            ("[server]\nport = 8700.0", r"server\.port.*int"),
            ("[server]\nhost = 1", r"server\.host.*str"),
            ("[server]\ngrace_seconds = '1'", r"server\.grace_seconds.*float"),
            ("[server]\ngrace_seconds = true", r"server\.grace_seconds.*float"),
            ("[security]\nallow_insecure = 1", r"security\.allow_insecure.*bool"),
            ("[security]\ntrust = 'yes'", r"security\.trust.*bool"),
            ("[security]\ntoken_file = ['x']", r"security\.token_file.*str"),
            ("[limits]\nlargest_n = 1e3", r"limits\.largest_n.*int"),
            ("models = 'a'", "models"),
            ("models = [1]", "models"),
            ("server = 1", "server"),
            ("limits = []", "limits"),
            ("[[security]]\ntoken_file = 'x'", "security"),
            ("[server]\nport = 65536", r"server\.port.*65536"),
            ("[server]\nport = -1", r"server\.port.*-1"),
            ("[server]\ngrace_seconds = -1", r"server\.grace_seconds.*-1"),
            ("[server]\ngrace_seconds = nan", r"server\.grace_seconds.*nan"),
            ("[server]\ngrace_seconds = inf", r"server\.grace_seconds.*inf"),
            ("[limits]\nlargest_n = 0", r"limits\.largest_n.*0"),
            ("[limits]\nlargest_n = 10000001", r"limits\.largest_n.*10000001"),
            ("[limits]\nimage_bytes = 0", r"limits\.image_bytes"),
            ("[limits]\nimage_pixels = -5", r"limits\.image_pixels"),
            ("[robustify]\nat_once = 0", r"robustify\.at_once.*0"),
            ("[robustify]\nwaiting = -1", r"robustify\.waiting.*-1"),
            ("[robustify]\nlargest_passes = 0", r"robustify\.largest_passes.*0"),
            ("[robustify]\nthreads = 0", r"robustify\.threads.*0"),
            ("[robustify]\nsurrogate = 1", r"robustify\.surrogate.*bool"),
            ("[security]\ntls_key = 'x'", r"tls_certificate.*tls_key"),
            ("[security]\ntls_certificate = 'x'", r"tls_certificate.*tls_key"),
            ("[server", r"server\.toml"),
        ],
    )
    def test_a_file(self, tmp_path: Path, text: str, named: str) -> None:
        """Unknown names, wrong types, values out of range, half a key pair, no TOML."""
        with pytest.raises(ConfigError, match=named):
            read(tmp_path, text)

    @pytest.mark.parametrize("content", [None, b"\xff\xfe"])
    def test_a_file_that_cannot_be_read(self, tmp_path: Path, content: bytes | None) -> None:
        """Its name is said."""
        path = tmp_path / "odd.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"odd\.toml"):
            read_config(path, {})


class TestLoopback:
    """Without TLS and a token, only this machine may connect, unless that is asked for."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
    def test_this_machine(self, host: str) -> None:
        """In either family of addresses, with or without brackets."""
        assert Config(server=Address(host)).server.is_loopback

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.168.0.1", "example.com", "localhost.example", ""])
    def test_other_machines_are_refused(self, host: str) -> None:
        """The sentence says what is missing and how to go on all the same."""
        with pytest.raises(ConfigError, match=r"TLS.*token.*--allow-insecure"):
            Config(server=Address(host))

    @pytest.mark.parametrize(
        ("security", "missing"),
        [
            (Security(token_file="t"), "without TLS"),
            (Security(tls_certificate="c", tls_key="k"), "without a token"),
        ],
    )
    def test_half_of_it_is_not_enough(self, security: Security, missing: str) -> None:
        """A token in plaintext is read by others; encryption without a token lets everybody in."""
        with pytest.raises(ConfigError, match=missing):
            Config(server=Address("0.0.0.0"), security=security)

    @pytest.mark.parametrize(
        "security", [Security(allow_insecure=True), Security(tls_certificate="c", tls_key="k", token_file="t")]
    )
    def test_allowed(self, security: Security) -> None:
        """With both, or when told so."""
        assert not Config(server=Address("0.0.0.0"), security=security).server.is_loopback

    def test_allow_insecure_from_the_command_line(self, tmp_path: Path) -> None:
        """The flag reaches the rule."""
        text = "[server]\nhost = '0.0.0.0'"
        with pytest.raises(ConfigError, match="allow-insecure"):
            read(tmp_path, text)
        assert read(tmp_path, text, security={"allow_insecure": True}).server.host == "0.0.0.0"
