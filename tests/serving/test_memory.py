"""What a server process holds in memory: read from the system, which knows of runtimes and their arenas too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from certserve.client import Client
from certserve.images import ImageFit

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-c", "from certserve.cli import main; main()")
MB = 1e6
TIMEOUT = 1_500.0
"""Seconds after which a test gives up; nothing is measured by it."""


@dataclass(frozen=True)
class Process:
    """A server that is ready."""

    pid: int
    target: str

    def memory(self, line: str) -> float:
        """Bytes, its own and those of the processes it started: VmRSS are resident now, VmHWM were at most."""
        folder = Path(f"/proc/{self.pid}")
        found = re.search(rf"^{line}:\s+(\d+) kB$", (folder / "status").read_text(encoding="utf-8"), re.MULTILINE)
        assert found
        children = [path.read_text(encoding="utf-8").split() for path in folder.glob("task/*/children")]
        return int(found[1]) * 1024.0 + sum(Process(int(pid), "").memory(line) for pids in children for pid in pids)

    def libraries(self) -> set[str]:
        """The names of the files that are mapped into it."""
        lines = Path(f"/proc/{self.pid}/maps").read_text(encoding="utf-8").splitlines()
        return {Path(line.split(maxsplit=5)[5]).name for line in lines if "/" in line}


@contextmanager
def ready(*words: str) -> Iterator[Process]:
    """`certserve serve` with these arguments; it is killed in the end."""
    arguments = [*COMMAND, "serve", "--address", "127.0.0.1:0", "--json", *words]
    with subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        watchdog = threading.Timer(TIMEOUT, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            said = ""
            while not said.rstrip().endswith("}"):
                line = process.stdout.readline()
                assert line, "the server ended before it was ready"
                said += line
            yield Process(process.pid, f"127.0.0.1:{json.loads(said)['port']}")
        finally:
            watchdog.cancel()
            process.kill()


def environment() -> dict[str, str]:
    """This process's, with this copy of the package first and no setting of the caller's own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {k: v for k, v in os.environ.items() if not k.startswith("CERTSERVE_")} | {"PYTHONPATH": path}


@pytest.fixture(scope="module")
def squeezenet(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an ImageNet-size model, as a user would make it."""
    bundle = tmp_path_factory.mktemp("imagenet") / "squeezenet"
    model = shared_data / "models" / "squeezenet1_1_imagenet.onnx"
    if not model.exists():
        pytest.skip("the ImageNet model is not on this machine")
    labels = shared_data / "imagenet-samples" / "classes.csv"
    normalisation = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--resize", "256")
    words: Sequence[str] = ("bundle", "create", str(model), *normalisation, "--labels", str(labels))
    subprocess.run(
        [*COMMAND, *words, "--sigma", "0.05", "-o", str(bundle)], check=True, capture_output=True, env=environment()
    )
    return bundle


def test_the_packaged_model_serves_without_torch_in_little_memory() -> None:
    """When it is ready, and when it has answered: under 500 MB, and nothing of torch is loaded."""
    with ready() as process, Client(process.target) as client:
        started = process.memory("VmRSS")
        client.certify(np.full(client.get_model().shape, 128, np.uint8), n=1_000, timeout=TIMEOUT)
        assert started < 500 * MB
        assert process.memory("VmRSS") < 500 * MB
        libraries = process.libraries()
    assert any("openvino" in name for name in libraries), "the file list must show what is loaded"
    assert [name for name in libraries if "torch" in name] == []


@pytest.mark.parametrize("isolate", [False, True], ids=["in the server", "in a process of its own"])
def test_a_thousand_times_the_draws_take_no_more_memory(
    harness: ModuleType, bundles: dict[str, Path], isolate: bool
) -> None:
    """The peak of the server grows by less than 50 MB from n = 1,000 to n = 1,000,000; a draw's label has two bytes."""
    words = ["--model", str(bundles["half"])] + ["--isolate"] * isolate
    with ready(*words) as process, Client(process.target) as client:
        peaks = []
        for n in (1_000, 1_000_000):
            assert client.certify(harness.image(), n=n, timeout=TIMEOUT).setting.n == n
            peaks.append(process.memory("VmHWM"))
    assert peaks[1] - peaks[0] < 50 * MB


def test_an_imagenet_size_model_stays_under_four_gigabytes(squeezenet: Path, shared_data: Path) -> None:
    """Its whole life: loading, checking, and 10,000 draws of 150,528 pixels."""
    photograph = shared_data / "imagenet-samples" / "n02279972_monarch.JPEG"
    with ready("--model", str(squeezenet)) as process, Client(process.target) as client:
        outcome = client.certify(photograph, fit=ImageFit.RESIZE_CROP, n0=10, n=10_000, timeout=TIMEOUT)
        peak = process.memory("VmHWM")
    assert outcome.setting.n == 10_000
    assert peak < 4_000 * MB


def _grey(shape: tuple[int, int, int]) -> bytes:
    import numpy as np

    from certserve.images import encode_png

    return encode_png(np.full(shape, 128, np.uint8), "rgb" if shape[0] == 3 else "grey")
