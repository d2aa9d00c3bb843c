"""GetSurrogate: offered or not, checked before anything is written, and what it makes can be robustified with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import certserve
from certserve import bundle as bundles
from certserve import errors, zoo
from certserve.defences.preemptive.methods import CertMargin
from certserve.endpoints.surrogates import Surrogate, architecture_of
from certserve.serving.config import Address, Config, RobustifyConfig

FILE = zoo.path_of("mnist") / "model.safetensors"


@pytest.fixture(scope="module")
def running(harness: ModuleType, bundles: dict[str, Path]) -> Iterator[Any]:
    """A server of the packaged digits that hands out weights, and of a model that has none."""
    loaded = [harness.LoadedModel.read(path) for path in (zoo.path_of("mnist"), bundles["half"])]
    config = Config(server=Address(port=0), robustify=RobustifyConfig(surrogate=True))
    with harness.Server(loaded, config=config) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def asked(request: pytest.FixtureRequest, harness: ModuleType, running: Any, loop: Any) -> Iterator[Any]:
    face = harness.face(request.param, running.target, loop)
    yield face
    face.close()


@pytest.fixture(scope="module")
def fetched(running: Any) -> Surrogate:
    with running.client() as client:
        found: Surrogate = client.get_surrogate("mnist")
    return found


def changed(surrogate: Surrogate, data: bytes, **more: Any) -> Surrogate:
    """With other weights, and their digest."""
    return dataclasses.replace(surrogate, data=data, digest=hashlib.sha256(data).hexdigest(), **more)


def renamed(data: bytes, architecture: str) -> bytes:
    """The file, for a network that it says."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["certserve.architecture"] = architecture
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def refused(surrogate: Surrogate, folder: Path) -> str:
    """Why it is not stored; nothing is on disk."""
    with pytest.raises(errors.BundleError) as caught:
        surrogate.store(folder / "fetched")
    assert list(folder.iterdir()) == []
    return str(caught.value)


def test_it_is_the_bundles_own_file(asked: Any) -> None:
    found = asked.get_surrogate("mnist")
    assert found.data == FILE.read_bytes()
    assert found.digest == bundles.read(FILE.parent).digests[FILE.name]
    assert found.model == asked.get_model("mnist")
    assert found.model.surrogate
    assert json.loads(found.architecture)["name"] == "residual"


def test_it_makes_a_bundle_to_robustify_with(fetched: Surrogate, harness: ModuleType, tmp_path: Path) -> None:
    made, packaged = fetched.store(tmp_path / "made"), bundles.read(FILE.parent)
    for name in ("name", "version", "labels", "shape", "colour", "resize", "sigmas", "defaults"):
        assert getattr(made, name) == getattr(packaged, name)
    blot = np.zeros((1, 28, 28), np.uint8)
    blot[0, 6:22, 12:17] = 200
    with (
        certserve.open(made.path, key_source=harness.SECRET) as here,
        certserve.open("mnist", execution=here.get_model().execution.name, key_source=harness.SECRET) as there,
    ):
        one, other = (
            model.robustify(blot, delta=0.5, n=100, alpha=0.05, method=CertMargin(steps=2, draws=4))
            for model in (here, there)
        )
        assert one.png == other.png
        assert one.after == other.after


def test_a_changed_byte_is_detected(fetched: Surrogate, tmp_path: Path) -> None:
    for position in (0, 9, len(fetched.data) // 2, len(fetched.data) - 1):
        data = bytearray(fetched.data)
        data[position] ^= 1
        broken = dataclasses.replace(fetched, data=bytes(data))
        assert "have the digest" in refused(broken, tmp_path)


def test_a_byte_changed_on_the_way_is_detected(running: Any, tmp_path: Path) -> None:
    files = running.running.service.surrogates._files
    kept = files["mnist"]
    try:
        files["mnist"] = kept[:-1] + bytes([kept[-1] ^ 1])
        with running.client() as client:
            assert "have the digest" in refused(client.get_surrogate("mnist"), tmp_path)
    finally:
        files["mnist"] = kept


def test_an_unknown_architecture_is_refused(fetched: Surrogate, tmp_path: Path) -> None:
    for described in ({"name": "transformer"}, {**json.loads(fetched.architecture), "name": "os.system"}):
        text = json.dumps(described)
        said = changed(fetched, renamed(fetched.data, text), architecture=text)
        why = refused(said, tmp_path)
        assert "the architecture residual" in why
        assert "/tmp" not in why


def test_weights_for_another_network_are_refused(fetched: Surrogate, tmp_path: Path) -> None:
    larger = json.dumps({**json.loads(fetched.architecture), "classes": 11})
    assert "another network than was said" in refused(changed(fetched, renamed(fetched.data, larger)), tmp_path)
    said = changed(fetched, renamed(fetched.data, larger), architecture=larger)
    assert "do not fit its architecture" in refused(said, tmp_path)
    model = dataclasses.replace(fetched.model, labels=fetched.model.labels[:-1])
    assert "10 classes, the model has" in refused(dataclasses.replace(fetched, model=model), tmp_path)


class Alarm:
    """Runs code of its own where it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("it was unpickled",)


def test_a_pickle_is_refused(fetched: Surrogate, tmp_path: Path) -> None:
    poisoned = pickle.dumps(Alarm())
    assert "names its architecture" in refused(changed(fetched, poisoned), tmp_path)
    with pytest.raises(errors.BundleError, match="names its architecture"):
        architecture_of(b"")


def test_a_server_that_offers_none_says_so(harness: ModuleType) -> None:
    with harness.Server([harness.LoadedModel.read(FILE.parent)]) as server, server.client() as client:
        error = harness.raised(client.get_surrogate)
        assert type(error) is errors.Infeasible
        assert "hands out no weights" in str(error)
        assert "robustify.surrogate" in str(error)
        assert not client.get_model().surrogate


def test_a_model_without_weights(asked: Any, harness: ModuleType) -> None:
    error = harness.raised(lambda: asked.get_surrogate("half"))
    assert type(error) is errors.BundleError
    assert "half has no weights for torch" in str(error)
    assert not asked.get_model("half").surrogate
    assert type(harness.raised(lambda: asked.get_surrogate("none"))) is errors.ModelNotFound


def test_a_file_that_was_replaced_is_not_handed_out(harness: ModuleType, tmp_path: Path) -> None:
    path = shutil.copytree(FILE.parent, tmp_path / "mnist")
    config = Config(server=Address(port=0), robustify=RobustifyConfig(surrogate=True))
    with harness.Server([harness.LoadedModel.read(path)], config=config) as server, server.client() as client:
        with (path / FILE.name).open("ab") as file:
            file.write(b"x")
        error = harness.raised(client.get_surrogate)
        assert type(error) is errors.BundleError
        assert "no longer the file" in str(error)
