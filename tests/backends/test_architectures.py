"""In-tree networks: what is saved is loaded to the bit, folding changes nothing, and no other file is taken for one."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from certserve.errors import BundleError

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from certserve.backends import architectures  # noqa: E402  after the runtime is known to be there
from certserve.backends.architectures import Residual, ResidualNetwork, Stage, load, save  # noqa: E402

KEY = "certserve.architecture"
VARIANTS: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": 4},
    {"shape": (1, 9, 5)},
    {"shape": (1, 1, 1), "stride": 4},
    {"stages": [(5, 1)]},
    {"stages": [(4, 1), (4, 1), (8, 1), (3, 2)], "shape": (3, 16, 16)},
]


def rows_of(network: ResidualNetwork, rows: int = 5) -> Any:
    """Inputs that differ in every pixel, some outside of [0, 1]."""
    shape = (rows, *network.description.shape)
    return torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float32)).view(shape)


def stored(folder: Path, network: ResidualNetwork) -> Path:
    """The network as a file."""
    path = folder / "model.safetensors"
    path.write_bytes(save(network))
    return path


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes], str]:
    """What is said of a file with these bytes; one line that begins with its name."""

    def check(contents: bytes) -> str:
        path = tmp_path / "spoilt.safetensors"
        path.write_bytes(contents)
        with pytest.raises(BundleError) as caught:
            load(path)
        said = str(caught.value)
        assert said.startswith(f"{path}: ")
        assert "\n" not in said
        return said.removeprefix(f"{path}: ")

    return check


def written(network: ResidualNetwork, text: str | None = None, **changes: Any) -> bytes:
    """The network's weights under another description: its own with changes (... removes), or this text."""
    described = json.loads(_metadata(save(network))[KEY]) | changes
    described = {name: value for name, value in described.items() if value is not ...}
    weights = safetensors.load(save(network))
    return bytes(safetensors.save(weights, {KEY: json.dumps(described) if text is None else text}))


def _metadata(raw: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", raw[:8])
    found: dict[str, str] = json.loads(raw[8 : 8 + length])["__metadata__"]
    return found


class TestNetwork:
    @pytest.mark.parametrize("changes", VARIANTS)
    def test_what_is_saved_is_loaded_to_the_bit(
        self, models: ModuleType, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        network = models.residual(**changes)
        again = load(stored(tmp_path, network))
        assert again.description == network.description
        assert not again.training
        x = rows_of(network)
        assert network(x).shape == (5, models.CLASSES)
        assert torch.equal(again(x), network(x))
        assert save(again) == save(network)

    def test_one_weight_is_enough_to_change_the_bytes(self, models: ModuleType) -> None:
        network = models.residual()
        before = save(network)
        with torch.no_grad():
            network.head.bias[1] += 1
        assert save(network) != before

    def test_weights_in_another_memory_format_are_the_same_bytes(self, models: ModuleType) -> None:
        network = models.residual()
        before = save(network)
        assert save(network.to(memory_format=torch.channels_last)) == before

    @pytest.mark.parametrize(("stride", "side", "kernel"), [(1, 12, 3), (2, 6, 5), (4, 3, 7)])
    def test_the_stem_has_its_stride(self, models: ModuleType, stride: int, side: int, kernel: int) -> None:
        network = models.residual(shape=(3, 12, 12), stride=stride)
        assert network.stem(rows_of(network)).shape == (5, 8, side, side)
        assert network.stem.conv.weight.shape[2:] == (kernel, kernel)

    def test_every_stage_but_the_first_halves(self, models: ModuleType) -> None:
        network = models.residual(shape=(3, 12, 12), stages=[(4, 2), (4, 1), (6, 2)])
        x, shapes = network.stem(rows_of(network)), []
        for block in network.blocks:
            x = block(x)
            shapes.append(tuple(x.shape[1:]))
        assert shapes == [(4, 12, 12), (4, 12, 12), (4, 6, 6), (6, 3, 3), (6, 3, 3)]

    def test_the_normalisation_is_the_first_step(self, models: ModuleType) -> None:
        network, plain = models.residual(), models.residual()
        plain.mean, plain.std = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.4, 0.45, 0.5], [0.2, 0.25, 0.3]))
        x = rows_of(network)
        torch.testing.assert_close(network(x), plain((x - mean) / std))
        assert (network(x) - plain(x)).abs().max() > 0.1

    @pytest.mark.parametrize("changes", VARIANTS)
    def test_folding_changes_nothing_but_the_rounding(self, models: ModuleType, changes: dict[str, Any]) -> None:
        network = models.residual(**changes)
        before = save(network)
        folded = network.folded()
        x = rows_of(network)
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-4)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
        assert save(network) == before

    def test_statistics_of_training_are_folded_too(self, models: ModuleType) -> None:
        """Those that the network gathered itself, from a network that is left in training mode."""
        network = models.residual().train()
        untrained = models.residual()
        network(rows_of(network, 8) * 3)
        folded, x = network.folded(), rows_of(network)
        assert network.training
        assert not folded.training
        torch.testing.assert_close(folded(x), network.eval()(x), rtol=1e-4, atol=1e-4)
        assert (folded(x) - untrained(x)).abs().max() > 1e-3

    def test_bfloat16_begins_after_the_normalisation(self, models: ModuleType) -> None:
        folded = models.residual().folded(torch.bfloat16)
        assert {value.dtype for value in folded.state_dict().values()} == {torch.bfloat16}
        assert folded.mean.dtype == folded.std.dtype == torch.float32
        assert folded(rows_of(folded)).dtype == torch.bfloat16

    @pytest.mark.parametrize("folded", [False, True])
    def test_the_gradient_reaches_the_input(self, models: ModuleType, folded: bool) -> None:
        """It is the slope that small steps show."""
        network = models.residual()
        network = (network.folded() if folded else network).double()
        x = rows_of(network, 1).double().requires_grad_()
        network(x)[0, 2].backward()
        direction = torch.cos(torch.arange(x.numel(), dtype=torch.float64)).view(x.shape)
        with torch.no_grad():
            slope = (network(x + 1e-6 * direction) - network(x - 1e-6 * direction))[0, 2] / 2e-6
            assert slope.abs() > 1e-3
            torch.testing.assert_close((x.grad * direction).sum(), slope, rtol=1e-5, atol=1e-8)


GOOD: dict[str, Any] = {
    "shape": (3, 8, 8),
    "classes": 4,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
    "stride": 1,
    "stages": (Stage(4, 1),),
}
WRONG = [
    ({"shape": (3, 8)}, "shape must be"),
    ({"shape": (3, 0, 8)}, "shape must be"),
    ({"shape": (3, 8, 4097)}, "shape must be"),
    ({"classes": 1}, "2 to 1,000,000 classes, not 1"),
    ({"classes": 1_000_001}, "not 1000001"),
    ({"mean": (0.5,)}, "3 channels need as many means and stds"),
    ({"std": (0.2,) * 4}, "3 channels need as many means and stds"),
    ({"mean": (0.5, float("nan"), 0.5)}, "means must be finite"),
    ({"std": (0.2, float("inf"), 0.2)}, "stds finite and positive"),
    ({"std": (0.2, 0.0, 0.2)}, "stds finite and positive"),
    ({"stride": 3}, "stride must be 1, 2 or 4, not 3"),
    ({"stages": ()}, "stages must be one or more"),
    ({"stages": (Stage(0, 1),)}, "of 1 to 4096 channels"),
    ({"stages": (Stage(4097, 1),)}, "of 1 to 4096 channels"),
    ({"stages": (Stage(4, 0),)}, "at least 1 block"),
    ({"stages": (Stage(4, 200), Stage(4, 57))}, "at most 256 blocks, not 257"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_a_value_out_of_its_range_is_refused(changes: dict[str, Any], said: str) -> None:
    Residual(**GOOD)
    with pytest.raises(BundleError, match=said):
        Residual(**GOOD | changes)


class TestRefused:
    @pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
    def test_a_truncated_file(self, models: ModuleType, refused: Callable[[bytes], str], kept: int) -> None:
        assert "expected a safetensors file" in refused(save(models.residual())[:kept])

    @pytest.mark.parametrize("head", [2**63, 2**64 - 1, 10**9, 3])
    def test_a_header_of_another_length(self, models: ModuleType, refused: Callable[[bytes], str], head: int) -> None:
        assert "expected a safetensors file" in refused(struct.pack("<Q", head) + save(models.residual())[8:])

    def test_something_behind_the_weights(self, models: ModuleType, refused: Callable[[bytes], str]) -> None:
        assert "expected a safetensors file" in refused(save(models.residual()) + b"\0")

    def test_a_pickle_is_not_opened(self, refused: Callable[[bytes], str], tmp_path: Path) -> None:
        class Runs:
            def __reduce__(self) -> tuple[Any, tuple[Path, str]]:
                return Path.write_text, (tmp_path / "mark", "ran")

        torch.save(Runs(), tmp_path / "model.pt")
        for contents in (pickle.dumps(Runs()), (tmp_path / "model.pt").read_bytes()):
            assert "expected a safetensors file" in refused(contents)
        assert not (tmp_path / "mark").exists()

    def test_no_file_and_a_directory(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(BundleError, match="expected a safetensors file"):
                load(path)

    @pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
    def test_weights_that_name_no_network(
        self, models: ModuleType, refused: Callable[[bytes], str], metadata: dict[str, str] | None
    ) -> None:
        weights = safetensors.load(save(models.residual()))
        assert "names no architecture" in refused(safetensors.save(weights, metadata))

    @pytest.mark.parametrize("changes", [{"name": "vit"}, {"name": 7}, {"depth": 3}, {"classes": ...}])
    def test_another_architecture(
        self, models: ModuleType, refused: Callable[[bytes], str], changes: dict[str, Any]
    ) -> None:
        assert "has the architecture residual, not" in refused(written(models.residual(), **changes))

    @pytest.mark.parametrize("text", ["", "[]", "null", "7", "{}", '"residual"', "{", "[" * 100_000])
    def test_a_description_that_is_none(self, models: ModuleType, refused: Callable[[bytes], str], text: str) -> None:
        assert "its architecture is not understood" in refused(written(models.residual(), text))

    @pytest.mark.parametrize(
        "changes",
        [
            {"classes": 10**30},
            {"classes": 4.0},
            {"classes": None},
            {"shape": [3, 8.5, 8]},
            {"shape": "388"},
            {"shape": [3, 8, 8, 8]},
            {"mean": [10**400] * 3},
            {"std": [float("nan")] * 3},
            {"mean": "abc"},
            {"mean": None},
            {"stride": 1.0},
            {"stride": [1]},
            {"stages": [{"width": 4, "blocks": 10**9}]},
            {"stages": [{"width": 4.0, "blocks": 1}]},
            {"stages": [{"width": 4}]},
            {"stages": [4, 6]},
            {"stages": None},
        ],
    )
    def test_values_of_another_kind_or_size(
        self, models: ModuleType, refused: Callable[[bytes], str], changes: dict[str, Any]
    ) -> None:
        assert "its architecture is not understood" in refused(written(models.residual(), **changes))

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"classes": 5}, "head.bias, head.weight"),
            ({"stride": 2}, "stem.conv.weight"),
            ({"stages": [{"width": 8, "blocks": 1}]}, "blocks.1."),
            ({"stages": [{"width": 8, "blocks": 1}, {"width": 16, "blocks": 3}]}, "blocks.3."),
        ],
    )
    def test_weights_of_another_network(
        self, models: ModuleType, refused: Callable[[bytes], str], changes: dict[str, Any], named: str
    ) -> None:
        said = refused(written(models.residual(), **changes))
        assert "its weights do not fit its architecture" in said
        assert named in said

    def test_weights_that_are_missing_or_too_many(self, models: ModuleType, refused: Callable[[bytes], str]) -> None:
        raw = save(models.residual())
        weights = safetensors.load(raw)
        extra = {**weights, "tail": torch.ones(2)}
        assert refused(safetensors.save(extra, _metadata(raw))).endswith(": tail")
        del weights["head.bias"]
        assert refused(safetensors.save(weights, _metadata(raw))).endswith(": head.bias")

    @pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
    def test_weights_of_another_type(self, models: ModuleType, refused: Callable[[bytes], str], dtype: str) -> None:
        raw = save(models.residual())
        weights = safetensors.load(raw)
        weights["head.bias"] = weights["head.bias"].to(getattr(torch, dtype))
        assert refused(safetensors.save(weights, _metadata(raw))).endswith(": not float32")

    def test_a_network_that_is_only_claimed_gets_no_memory(
        self, models: ModuleType, refused: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        places = []

        class Recorded(ResidualNetwork):
            def __init__(self, description: Residual) -> None:
                places.append(torch.empty(0).device.type)
                super().__init__(description)

        contents = written(models.residual(), stages=[{"width": 64, "blocks": 2}])
        monkeypatch.setattr(architectures, "ResidualNetwork", Recorded)
        assert "do not fit" in refused(contents)
        assert places == ["meta"]
