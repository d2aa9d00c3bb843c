"""The CUDA backend, on a CUDA device or else on the CPU, where its steps, its batches and its noise are the same."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from certserve.backends.probes import probe_pixels
from certserve.errors import BackendFailed, BundleError, ModelRefused, OutOfMemory
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.chacha import CHACHA_STREAM
from certserve.noise.keystream import Key
from certserve.sampling.batches import HostBatch, batch_of
from certserve.sampling.sampler import Sampler
from certserve.sampling.slices import DrawSet, Slice
from certserve.sampling.source import DrawSource

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from certserve import backends, bundle, zoo  # noqa: E402
from certserve.backends import cuda  # noqa: E402
from certserve.backends.architectures import Residual, ResidualNetwork, Stage, load, save  # noqa: E402
from certserve.backends.cuda import CudaBackend, DrawingCudaBackend, FusedNetwork  # noqa: E402

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
def noise(network: Any, device_noise: ModuleType, device: Any) -> Any:
    return device_noise.DeviceNoise(network.mean.to(device), (1.0 / network.std).to(device))


@pytest.fixture(scope="module")
def backend(network: Any, noise: Any, device: Any) -> Any:
    return DrawingCudaBackend(network, torch.float32, device, noise)


def a_source(arithmetic: Arithmetic = Arithmetic.GRID) -> DrawSource:
    pixels = (np.arange(48) * 5 % 256).astype(np.uint8).reshape(SHAPE)
    if arithmetic is Arithmetic.GRID:
        return DrawSource(Key(bytes(32)), pixels, 0.5, arithmetic)
    return DrawSource(Key(bytes(32)), (pixels / np.float32(256)).astype(np.float32), 0.5, arithmetic)


def of_draws(batch: Any, source: DrawSource, first: int, count: int) -> npt.NDArray[np.float32]:
    batch.write(0, count, source, DrawSet.ESTIMATION, first)
    return np.array(batch.logits(0, count))


class TestFusedNetwork:
    def test_it_is_the_network(self, network: Any, device: Any) -> None:
        """A bias that is lost, or added twice where a shortcut has one too, fails."""
        fused = FusedNetwork(network, torch.float32, device)
        pixels = torch.from_numpy(probe_pixels(SHAPE, 9, 0.5))
        with torch.inference_mode():
            found = fused(fused.normalised(pixels.to(device))).cpu()
            torch.testing.assert_close(found, network(pixels), rtol=1e-4, atol=1e-4)

    def test_bfloat16_is_computed_in_bfloat16(self, network: Any, device: Any) -> None:
        fused = FusedNetwork(network, torch.bfloat16, device)
        normalised = fused.normalised(torch.from_numpy(probe_pixels(SHAPE, 9, 0.5)).to(device))
        assert normalised.dtype == fused(normalised).dtype == torch.bfloat16

    def test_the_network_it_is_made_of_stays_as_it_is(self, network: Any, device: Any) -> None:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        FusedNetwork(network, torch.bfloat16, device)
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

    def test_what_fails_says_on_how_many_rows(
        self, network: Any, noise: Any, monkeypatch: pytest.MonkeyPatch, device: Any
    ) -> None:
        backend = DrawingCudaBackend(network, torch.float32, device, noise)
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
    def test_the_backends_own_is_taken_where_there_is_one(self, network: Any, backend: Any, device: Any) -> None:
        assert not isinstance(batch_of(backend, 2), HostBatch)
        assert isinstance(batch_of(CudaBackend(network, torch.float32, device), 2), HostBatch)

    def test_float_arithmetic_has_the_processors_noise(self, backend: Any) -> None:
        source = a_source(Arithmetic.FLOAT)
        found = of_draws(backend.batch(3), source, 5, 3)
        np.testing.assert_array_equal(found, of_draws(HostBatch(backend, 3), source, 5, 3))

    def test_grid_arithmetic_has_the_devices(self, backend: Any) -> None:
        rows = torch.zeros((3, *SHAPE), device=backend.device).contiguous(memory_format=torch.channels_last)
        source = a_source()
        backend.noise.write(rows, source.key, source.pixels, source.sigma, DrawSet.ESTIMATION, 5)
        found = of_draws(backend.batch(3), source, 5, 3)
        np.testing.assert_array_equal(found, backend.network(rows).detach().cpu().numpy())
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

    @pytest.mark.parametrize("arithmetic", Arithmetic)
    def test_labels_do_not_depend_on_batches(self, backend: Any, arithmetic: Arithmetic) -> None:
        source = a_source(arithmetic)
        several, single = Sampler(backend, (1, 3), 2), Sampler(backend, (1,))
        (found,) = several.labels([(source, Slice(1, DrawSet.ESTIMATION, 7, 16))])
        alone = [single.labels([(source, Slice(1, DrawSet.ESTIMATION, 7 + i, 1))])[0][0] for i in range(16)]
        assert found.tolist() == alone
        assert len(set(alone)) > 1, "the model must tell draws apart"

    def test_rows_that_begin_anywhere_are_copied_to_where_kernels_are_the_same(
        self, network: Any, noise: Any, device: Any
    ) -> None:
        seen = []

        class Watched(DrawingCudaBackend):
            def classify(self, normalised: Any) -> Any:
                seen.append(normalised.data_ptr() % 16)
                return super().classify(normalised)

        batch = Watched(network, torch.bfloat16, device, noise).batch(3)
        values = torch.zeros(3 * 48 + 1, dtype=torch.bfloat16, device=device)[1:]
        assert values.data_ptr() % 16 != 0
        vars(batch)["_rows"] = values.view(3, 4, 4, 3).permute(0, 3, 1, 2)
        batch.logits(0, 3)
        assert seen[-1] == 0


class TestFusing:
    def test_a_network_that_cudnn_has_no_fused_kernels_for_runs_without(
        self, network: Any, monkeypatch: pytest.MonkeyPatch, device: Any
    ) -> None:
        class Fused(FusedNetwork):
            def __init__(self, *parts: Any) -> None:
                super().__init__(*parts)
                self.fused = True  # whose kernels a CPU does not have

        monkeypatch.setattr(cuda, "FusedNetwork", Fused)
        backend = CudaBackend(network, torch.float32, device)
        assert not backend.network.fused
        pixels = probe_pixels(SHAPE, 9, 0.5)
        expected = network(torch.from_numpy(pixels)).detach().numpy()
        np.testing.assert_allclose(backend.logits(pixels), expected, rtol=1e-4, atol=1e-4)


class TestRead:
    @pytest.fixture
    def stored(self, models: ModuleType, tmp_path: Path) -> Path:
        path = tmp_path / "model.safetensors"
        path.write_bytes(save(models.residual()))
        return path

    @pytest.mark.usefixtures("device_noise")
    def test_a_network_with_its_noise(self, stored: Path, device: Any) -> None:
        found = cuda.read(stored, "float32", device)
        assert isinstance(found, DrawingCudaBackend)
        assert found.identity["precision"] == "float32"

    def test_where_the_device_cannot_draw_the_processor_does(
        self,
        stored: Path,
        device_noise: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        device: Any,
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("Failed to find C compiler")

        monkeypatch.setattr(device_noise.DeviceNoise, "check", fail)
        with caplog.at_level(logging.WARNING):
            found = cuda.read(stored, "float32", device)
        assert type(found) is CudaBackend
        assert "the noise is made on the processor, not on the CUDA device: Failed to find C compiler" in caplog.text

    def test_where_triton_is_missing_too(self, stored: Path, monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
        monkeypatch.setitem(sys.modules, "certserve.backends.device_noise", None)
        assert type(cuda.read(stored, "float32", device)) is CudaBackend

    @pytest.mark.usefixtures("device_noise")
    def test_a_network_that_does_not_run_is_no_failure_of_the_noise(
        self, stored: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: Any
    ) -> None:
        def fail(*_: object) -> Any:
            raise RuntimeError("no such kernel")

        monkeypatch.setattr(FusedNetwork, "__call__", fail)
        with pytest.raises(ModelRefused, match="no such kernel"):
            cuda.read(stored, "float32", device)
        assert "the noise is made on the processor" not in caplog.text

    @pytest.mark.parametrize("precision", ["int8", "", "Float32"])
    def test_an_unknown_precision_is_refused(self, stored: Path, precision: str, device: Any) -> None:
        with pytest.raises(BundleError, match=rf"unknown precision '{precision}'; torch has float32, bfloat16"):
            cuda.read(stored, precision, device)

    @pytest.mark.parametrize("there", [False, True])
    def test_a_bundle_runs_on_the_device_where_there_is_one(
        self, there: bool, network: Any, monkeypatch: pytest.MonkeyPatch, device: Any
    ) -> None:
        found = bundle.read(zoo.path_of("mnist"))
        execution = found.execution("torch-float32")
        monkeypatch.setattr(backends, "has_cuda", lambda: there)
        on_device = CudaBackend(load(found.file(execution.file)), torch.float32, device)
        monkeypatch.setattr(cuda, "read", lambda *_: on_device)
        assert (backends.load(found, execution).backend is on_device) is there
