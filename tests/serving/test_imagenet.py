"""An ImageNet-size classifier of somebody else's, made a bundle by the command and asked about real photographs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import certserve

CERTSERVE = (sys.executable, "-c", "from certserve.cli import main; main()")
PHOTOGRAPHS = ("n02279972_monarch.JPEG", "n07873807_pizza.JPEG", "n04458633_totem_pole.JPEG")


@pytest.fixture(scope="module")
def address(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server on the bundle that `certserve bundle create` made of SqueezeNet, as a user would start it."""
    bundle = tmp_path_factory.mktemp("imagenet") / "squeezenet"
    normalisation = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--resize", "256")
    labels = shared_data / "imagenet-samples" / "classes.csv"
    model = shared_data / "models" / "squeezenet1_1_imagenet.onnx"
    create = ("bundle", "create", str(model), *normalisation, "--labels", str(labels), "--sigma", "0.05")
    subprocess.run([*CERTSERVE, *create, "-o", str(bundle)], check=True, capture_output=True)
    serve = (*CERTSERVE, "serve", "--model", str(bundle), "--address", "127.0.0.1:0", "--json")
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ready = ""
        while not ready.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, "the server ended before it was ready"
            ready += line
        yield f"127.0.0.1:{json.loads(ready)['port']}"
        process.terminate()


def names(shared_data: Path) -> dict[str, str]:
    """What each photograph shows, in the words of the data set."""
    with (shared_data / "imagenet-samples" / "labels.csv").open(encoding="utf-8", newline="") as file:
        return {row["file"]: row["name"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_photographs_are_certified_under_their_own_names(address: str, shared_data: Path, photograph: str) -> None:
    """Fails if sizes, colours, normalisation or labels are mixed up, or the certificate hides the resizing."""
    path = shared_data / "imagenet-samples" / photograph
    with certserve.Client(address) as client:
        prediction = client.predict(path, fit=certserve.ImageFit.RESIZE_CROP, n=30, timeout=120)
        certificate = client.certify(path, fit=certserve.ImageFit.RESIZE_CROP, n0=10, n=60, timeout=120)
    expected = names(shared_data)[photograph]
    assert isinstance(prediction, certserve.Prediction)
    assert prediction.label_name == expected
    assert isinstance(certificate, certserve.Certificate)
    assert certificate.label_name == expected
    assert certificate.origin.space.shape == (3, 224, 224)
    assert "224x224" in certificate.origin.space.description
    assert "resizing the shorter side to 256" in certificate.origin.space.description
    certserve.verify(certificate)


def test_a_photograph_of_another_size_is_refused_without_resizing(address: str, shared_data: Path) -> None:
    """Fails if an image is resized without being asked to."""
    path = shared_data / "imagenet-samples" / PHOTOGRAPHS[0]
    with certserve.Client(address) as client, pytest.raises(certserve.CertserveError, match="resize-crop"):
        client.certify(path, n0=10, n=60, timeout=120)
