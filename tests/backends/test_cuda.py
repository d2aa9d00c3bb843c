"""The CUDA backend, on the CPU: its steps, its batches and its noise (by Triton's interpreter) need no device."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.backends.probes import probe_pixels
from certserve.errors import BackendFailed, BundleError, OutOfMemory
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.chacha import CHACHA_STREAM
from certserve.noise.keystream import Key
from certserve.sampling.batches import HostBatch, batch_of
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource

os.environ["TRITON_INTERPRET"] = "1"  # before the kernel is read
torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("triton", reason="Triton, which comes with PyTorch for CUDA, is not installed")

from certserve.backends import cuda  # noqa: E402
from certserve.backends.architectures import Residual, ResidualNetwork, Stage, save  # noqa: E402
from certserve.backends.cuda import CudaBackend, DrawingCudaBackend, FusedNetwork  # noqa: E402

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)


@pytest.fixture(scope="module")
def network() -> Any:
    """Blocks with and without a shortcut convolution; normalisations that do something."""
    description = Residual(SHAPE, 5, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 1, (Stage(8, 2), Stage(16, 1)))
    torch.manual_seed(0)
    made = ResidualNetwork(description)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                torch.nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                torch.nn.init.uniform_(values, -0.5, 0.5)
    return made.eval()


@pytest.fixture(scope="module")
def backend(network: Any) -> Any:
    return DrawingCudaBackend(network, torch.float32, CPU)


def a_source(arithmetic: Arithmetic = Arithmetic.GRID) -> DrawSource:
    pixels = (np.arange(48) * 5 % 256).astype(np.uint8).reshape(SHAPE)
    if arithmetic is Arithmetic.GRID:
        return DrawSource(Key(bytes(32)), pixels, 0.5, arithmetic)
    return DrawSource(Key(bytes(32)), (pixels / np.float32(256)).astype(np.float32), 0.5, arithmetic)


def of_draws(batch: Any, source: DrawSource, first: int, count: int) -> npt.NDArray[np.float32]:
    batch.write(0, count, source, DrawSet.ESTIMATION, first)
    return np.array(batch.logits(0, count))


class TestFusedNetwork:
    def test_it_is_the_network(self, network: Any) -> None:
        """A bias that is lost, or added twice where a shortcut has one too, fails."""
        fused = FusedNetwork(network, torch.float32, CPU)
        pixels = torch.from_numpy(probe_pixels(SHAPE, 9, 0.5))
        with torch.inference_mode():
            torch.testing.assert_close(fused(fused.normalised(pixels)), network(pixels), rtol=1e-4, atol=1e-4)

    def test_bfloat16_is_computed_in_bfloat16(self, network: Any) -> None:
        fused = FusedNetwork(network, torch.bfloat16, CPU)
        normalised = fused.normalised(torch.from_numpy(probe_pixels(SHAPE, 9, 0.5)))
        assert normalised.dtype == fused(normalised).dtype == torch.bfloat16

    def test_the_network_it_is_made_of_stays_as_it_is(self, network: Any) -> None:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        FusedNetwork(network, torch.bfloat16, CPU)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class TestBackend:
    def test_logits_are_the_networks(self, network: Any, backend: Any) -> None:
        pixels = probe_pixels(SHAPE, 9, 0.5)
        expected = network(torch.from_numpy(pixels)).detach().numpy()
        np.testing.assert_allclose(backend.logits(pixels), expected, rtol=1e-4, atol=1e-4)
        pixels.flags.writeable = False
        np.testing.assert_allclose(backend.logits(pixels), expected, rtol=1e-4, atol=1e-4)

    def test_it_says_what_it_is(self, backend: Any) -> None:
        assert (backend.shape, backend.num_classes, backend.stream) == (SHAPE, 5, CHACHA_STREAM)
        assert set(backend.identity) == {"runtime", "version", "precision", "device", "libraries"}

    def test_what_fails_says_on_how_many_rows(self, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = DrawingCudaBackend(network, torch.float32, CPU)
        batch = backend.batch(4)

        def fail(rows: Any) -> Any:
            raise RuntimeError("CUDA out of memory")

        monkeypatch.setattr(backend, "network", fail)
        with pytest.raises(OutOfMemory, match="batch of 3 rows: CUDA out of memory"):
            batch.logits(0, 3)
        with pytest.raises(BackendFailed, match="batch of 2 rows"):
            backend.logits(probe_pixels(SHAPE, 2, 0.5))
        monkeypatch.setattr(backend.noise, "write", lambda *_: fail(None))
        with pytest.raises(OutOfMemory, match="batch of 3 rows: CUDA out of memory"):
            batch.write(0, 3, a_source(), DrawSet.ESTIMATION, 0)


class TestBatch:
    def test_the_backends_own_is_taken_where_there_is_one(self, network: Any, backend: Any) -> None:
        assert not isinstance(batch_of(backend, 2), HostBatch)
        assert isinstance(batch_of(CudaBackend(network, torch.float32, CPU), 2), HostBatch)

    def test_float_arithmetic_has_the_processors_noise(self, backend: Any) -> None:
        source = a_source(Arithmetic.FLOAT)
        found = of_draws(backend.batch(3), source, 5, 3)
        np.testing.assert_array_equal(found, of_draws(HostBatch(backend, 3), source, 5, 3))

    def test_grid_arithmetic_has_the_devices(self, backend: Any) -> None:
        rows = torch.zeros((3, *SHAPE)).contiguous(memory_format=torch.channels_last)
        backend.noise.write(rows, a_source(), DrawSet.ESTIMATION, 5)
        found = of_draws(backend.batch(3), a_source(), 5, 3)
        np.testing.assert_array_equal(found, backend.network(rows).detach().numpy())
        assert not np.array_equal(found, of_draws(HostBatch(backend, 3), a_source(), 5, 3))

    def test_rows_are_moved_and_cleared(self, backend: Any) -> None:
        batch = backend.batch(6)
        batch.write(0, 6, a_source(Arithmetic.FLOAT), DrawSet.SELECTION, 0)
        before = np.array(batch.logits(0, 6))
        batch.move_up(2, 6)  # the two places overlap
        np.testing.assert_array_equal(batch.logits(0, 4), before[2:])
        batch.clear(1, 3)
        after = np.array(batch.logits(0, 4))
        np.testing.assert_array_equal(after[[0, 3]], before[[2, 5]])
        np.testing.assert_array_equal(after[1], after[2])

    def test_labels_do_not_depend_on_batches(self, backend: Any) -> None:
        for arithmetic in Arithmetic:
            source = a_source(arithmetic)
            several, single = Sampler(backend, (1, 3), 2), Sampler(backend, (1,))
            (found,) = several.labels([(source, Slice(1, DrawSet.ESTIMATION, 7, 5))])
            alone = [single.labels([(source, Slice(1, DrawSet.ESTIMATION, 7 + i, 1))])[0][0] for i in range(5)]
            assert found.tolist() == alone


class TestRead:
    @pytest.fixture
    def stored(self, models: ModuleType, tmp_path: Path) -> Path:
        path = tmp_path / "model.safetensors"
        path.write_bytes(save(models.residual()))
        return path

    def test_a_network_with_its_noise(self, stored: Path) -> None:
        assert isinstance(cuda.read(stored, "float32", CPU), DrawingCudaBackend)

    def test_where_the_device_cannot_draw_the_processor_does(
        self, stored: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("Failed to find C compiler")

        monkeypatch.setattr("certserve.backends.device_noise.DeviceNoise.check", fail)
        with caplog.at_level(logging.WARNING):
            found = cuda.read(stored, "float32", CPU)
        assert type(found) is CudaBackend
        assert "the noise is made on the processor, not on the CUDA device: Failed to find C compiler" in caplog.text

    def test_where_triton_is_missing_too(self, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "certserve.backends.device_noise", None)
        assert type(cuda.read(stored, "float32", CPU)) is CudaBackend

    @pytest.mark.parametrize("precision", ["int8", "", "Float32"])
    def test_an_unknown_precision_is_refused(self, stored: Path, precision: str) -> None:
        with pytest.raises(BundleError, match=rf"unknown precision '{precision}'; torch has float32, bfloat16"):
            cuda.read(stored, precision, CPU)
