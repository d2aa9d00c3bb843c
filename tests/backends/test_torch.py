"""PyTorch as a backend: precisions, what it says of itself, its failures, and programs of torch.export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from certserve.backends.probes import probe_pixels
from certserve.errors import BackendFailed, BundleError, ModelRefused

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from certserve import bundle, zoo  # noqa: E402
from certserve.backends import torch as backend_module  # noqa: E402
from certserve.backends.architectures import save  # noqa: E402  after the runtime is known to be there
from certserve.backends.torch import TorchBackend, differentiable, gradients  # noqa: E402

SHAPE = (3, 8, 8)


@pytest.fixture
def stored(models: ModuleType, tmp_path: Path) -> Path:
    """A residual network as a safetensors file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(models.residual()))
    return path


def flat_sums(x: Any) -> Any:
    """Two logits of each row: its sum, and the sum of its squares."""
    return torch.stack([x.flatten(1).sum(1), (x * x).flatten(1).sum(1)], 1)


@pytest.fixture(scope="module")
def found() -> Any:
    """A packaged bundle."""
    return bundle.read(zoo.path_of("mnist"))


class TestGradients:
    @pytest.fixture
    def rows(self) -> Any:
        return torch.from_numpy(probe_pixels((1, 28, 28), 9, 0.25)).requires_grad_()

    def test_float32_is_the_network_and_so_is_its_gradient(self, found: Any, rows: Any) -> None:
        expected, logits = differentiable(found)(rows), gradients(found, bfloat16=False)(rows)
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
        slopes = [torch.autograd.grad(each[:, 3].sum(), rows)[0] for each in (expected, logits)]
        assert torch.allclose(*slopes, rtol=1e-3, atol=1e-4)

    def test_bfloat16_is_near_it(self, found: Any, rows: Any) -> None:
        exact, short = (gradients(found, bfloat16=bfloat16)(rows) for bfloat16 in (False, True))
        assert short.dtype == torch.float32
        assert not torch.equal(exact, short)
        slopes = [torch.autograd.grad(each[:, 3].sum(), rows)[0].flatten() for each in (exact, short)]
        assert float(torch.nn.functional.cosine_similarity(*slopes, dim=0)) > 0.99

    @pytest.mark.parametrize("has", [False, True])
    def test_it_is_bfloat16_where_the_processor_has_it(
        self, found: Any, rows: Any, has: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "multiplies_bfloat16", lambda: has)
        assert torch.equal(gradients(found)(rows), gradients(found, bfloat16=has)(rows))

    def test_its_weights_have_none(self, found: Any, rows: Any) -> None:
        assert not gradients(found)(rows.detach()).requires_grad


class TestNetworks:
    def test_float32_is_the_network(self, models: ModuleType, stored: Path) -> None:
        backend = TorchBackend.read(stored, "float32")
        pixels = probe_pixels(SHAPE, 9, 0.5)
        expected = models.residual()(torch.from_numpy(pixels)).detach().numpy()
        np.testing.assert_allclose(backend.logits(pixels), expected, rtol=1e-4, atol=1e-4)

    def test_bfloat16_is_computed_in_bfloat16(self, stored: Path) -> None:
        exact, short = (TorchBackend.read(stored, precision) for precision in ("float32", "bfloat16"))
        pixels = probe_pixels(SHAPE, 9, 0.5)
        logits = short.logits(pixels)
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, torch.from_numpy(logits).bfloat16().float().numpy())
        assert not np.array_equal(logits, exact.logits(pixels))

    @pytest.mark.parametrize("precision", ["int8", "float64", "", "Float32"])
    def test_an_unknown_precision_is_refused_with_those_there_are(self, stored: Path, precision: str) -> None:
        with pytest.raises(BundleError, match=rf"{stored}: unknown precision '{precision}'; torch has float32, bfloat"):
            TorchBackend.read(stored, precision)

    def test_a_file_that_is_no_network_is_refused(self, stored: Path) -> None:
        stored.write_bytes(b"nothing of the kind")
        with pytest.raises(BundleError, match="expected a safetensors file"):
            TorchBackend.read(stored, "float32")

    def test_its_identity_names_version_precision_and_hardware(self, stored: Path) -> None:
        for precision in ("float32", "bfloat16"):
            found = TorchBackend.read(stored, precision).identity
            assert set(found) == {"runtime", "version", "precision", "device", "threads", "instructions"}
            assert (found["runtime"], found["version"], found["precision"]) == ("torch", torch.__version__, precision)
            assert (found["device"], found["threads"]) == ("cpu", str(torch.get_num_threads()))

    def test_arrays_that_may_not_be_written_to(self, stored: Path) -> None:
        backend = TorchBackend.read(stored, "float32")
        pixels = probe_pixels(SHAPE, 9, 0.5)
        expected = backend.logits(pixels)
        pixels.flags.writeable = False
        np.testing.assert_array_equal(backend.logits(pixels), expected)

    def test_no_gradients_are_kept(self, models: ModuleType) -> None:
        seen = []

        def function(x: Any) -> Any:
            seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return network(x)

        network = models.residual()
        TorchBackend(function, SHAPE, "float32")
        assert seen == [(False, True)]


class TestFailures:
    @pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("no"), AssertionError("shape")])
    def test_a_runtime_that_fails_on_a_batch_says_on_how_many_rows(self, error: Exception) -> None:
        def function(x: Any) -> Any:
            if len(x) == 7:
                raise error
            return flat_sums(x)

        backend = TorchBackend(function, SHAPE, "float32")
        assert backend.logits(probe_pixels(SHAPE, 6, 0.5)).shape == (6, 2)
        with pytest.raises(BackendFailed, match=f"batch of 7 rows: {error}"):
            backend.logits(probe_pixels(SHAPE, 7, 0.5))

    @pytest.mark.parametrize(
        ("function", "said"),
        [
            (lambda x: x, r"two rows gave \(2, 3, 8, 8\)"),
            (lambda x: flat_sums(x)[:1], r"two rows gave \(1, 2\)"),
            (lambda x: flat_sums(x)[:, 0], r"two rows gave \(2,\)"),
            (lambda x: x @ torch.ones(9, 4), "does not run on two rows at once"),
            (lambda x: (flat_sums(x), x), "does not run on two rows at once"),
            (lambda x: None, "does not run on two rows at once"),
        ],
    )
    def test_what_is_no_classifier_is_refused(self, function: Callable[[Any], Any], said: str) -> None:
        with pytest.raises(ModelRefused, match=said):
            TorchBackend(function, SHAPE, "float32")


class TestPrograms:
    def test_a_program_is_the_network(self, models: ModuleType, tmp_path: Path) -> None:
        backend = TorchBackend.read_program(models.program(tmp_path / "model.pt2"), SHAPE, "float32")
        assert (backend.shape, backend.num_classes) == (SHAPE, models.CLASSES)
        assert (backend.identity["device"], backend.identity["precision"]) == ("cpu", "float32")
        for rows in (1, 2, 9):
            pixels = probe_pixels(SHAPE, rows, 0.5)
            expected = models.residual()(torch.from_numpy(pixels)).detach().numpy()
            np.testing.assert_allclose(backend.logits(pixels), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("contents", [b"", b"nothing of the kind", b"PK\x05\x06" + bytes(18)])
    def test_a_file_that_is_no_program_is_refused(self, tmp_path: Path, contents: bytes) -> None:
        (tmp_path / "model.pt2").write_bytes(contents)
        with pytest.raises(BundleError, match=r"model\.pt2: expected a program written by torch\.export\.save"):
            TorchBackend.read_program(tmp_path / "model.pt2", SHAPE, "float32")

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="expected a program"):
            TorchBackend.read_program(tmp_path / "model.pt2", SHAPE, "float32")

    def test_a_batch_that_is_fixed_at_one_row_is_refused(self, models: ModuleType, tmp_path: Path) -> None:
        path = models.program(tmp_path / "model.pt2", batch=1)
        with pytest.raises(ModelRefused, match="does not run on two rows at once"):
            TorchBackend.read_program(path, SHAPE, "float32")

    def test_a_program_of_other_images_is_refused(self, models: ModuleType, tmp_path: Path) -> None:
        path = models.program(tmp_path / "model.pt2")
        with pytest.raises(ModelRefused, match="does not run on two rows at once"):
            TorchBackend.read_program(path, (1, 8, 8), "float32")

    def test_a_program_of_several_results_is_refused(self, models: ModuleType, tmp_path: Path) -> None:
        path = models.program(tmp_path / "model.pt2", lambda x: (flat_sums(x), x))
        with pytest.raises(ModelRefused, match="does not run on two rows at once"):
            TorchBackend.read_program(path, SHAPE, "float32")

    @pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4)])
    def test_a_program_that_changes_its_input_does_not_change_the_callers(
        self, models: ModuleType, tmp_path: Path, shape: tuple[int, int, int]
    ) -> None:
        path = models.program(tmp_path / "model.pt2", lambda x: flat_sums(x.sub_(0.5)), shape=shape)
        backend = TorchBackend.read_program(path, shape, "float32")
        pixels = probe_pixels(shape, 5, 0.5)
        before = pixels.copy()
        np.testing.assert_allclose(backend.logits(pixels)[:, 0], (before - 0.5).sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(pixels, before)
