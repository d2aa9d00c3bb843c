"""A run learns, and ends in the same weights however often it was interrupted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from certserve.backends.architectures import Residual, ResidualNetwork, Stage, save  # noqa: E402 (after the checks)
from certserve.datasets import Dataset  # noqa: E402
from certserve.training import classifier, log  # noqa: E402
from certserve.training import run as run_module  # noqa: E402
from certserve.training.classifier import layout, noisy_accuracy, train  # noqa: E402
from certserve.training.examples import Examples, noisy_batch, split  # noqa: E402
from certserve.training.log import Epoch  # noqa: E402
from certserve.training.recipe import Recipe, RecipeError  # noqa: E402
from certserve.training.run import Progress  # noqa: E402

Run: TypeAlias = Callable[..., ResidualNetwork]

NETWORK = Residual((1, 8, 8), 2, (0.5,), (0.4,), 1, (Stage(4, 1), Stage(6, 1)))
STEPS = 9
FOLDER_IS_OF_ANOTHER = "holds a run with another "


class Interrupted(Exception):
    """What stops a run."""


def stop_at(*steps: int) -> Callable[[Progress], None]:
    """Interrupts a run after any of these steps."""

    def told(progress: Progress) -> None:
        if progress.step in steps:
            raise Interrupted

    return told


def untimed(folder: Path) -> list[Epoch]:
    """The log without its times."""
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in log.read(folder / "log.tsv")]


@pytest.fixture(scope="session")
def run(data: Dataset, recipe: Recipe) -> Run:
    """A run in the given folder; arguments replace what it is usually of."""

    def started(folder: Path, **other: Any) -> ResidualNetwork:
        parts = dict(zip(("data", "held_out"), split(data, "ab", recipe), strict=True))
        return train(**{**parts, "architecture": NETWORK, "recipe": recipe, "folder": folder, **other})

    return started


@pytest.fixture(scope="session")
def undisturbed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Epoch]]:
    """The weights and the log of a run that was left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return save(run(folder)), untimed(folder)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("regularised", [True, False])
def test_it_learns_what_is_easily_told_apart(
    run: Run, data: Dataset, recipe: Recipe, tmp_path: Path, precision: str, regularised: bool
) -> None:
    plain: dict[str, Any] = {} if regularised else {"copies": 1, "consistency": 0.0, "entropy": 0.0}
    chosen = dataclasses.replace(recipe, epochs=8, precision=precision, **plain)
    network = run(tmp_path, recipe=chosen)
    assert not network.training
    with torch.inference_mode():
        labels = network(torch.from_numpy(data.images).float() / 255).argmax(1)
    assert labels.tolist() == data.labels.tolist()
    epochs = log.read(tmp_path / "log.tsv")
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].loss < epochs[0].loss / 2
    assert epochs[-1].noisy_accuracy > 0.9


def test_progress_is_told_after_every_step(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    told: list[Progress] = []
    run(tmp_path, on_progress=told.append)
    assert [(each.step, each.steps) for each in told] == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert [len(each.epochs) for each in told] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    for epoch, written in zip(told[-1].epochs, log.read(tmp_path / "log.tsv"), strict=True):
        assert isinstance(epoch, Epoch)
        losses = [each.loss for each in told[3 * (epoch.epoch - 1) : 3 * epoch.epoch]]
        assert epoch.loss == pytest.approx(sum(losses) / 3, rel=1e-12)
        assert epoch.learning_rate == recipe.rate(3 * epoch.epoch - 1, STEPS)
        assert written.loss == pytest.approx(epoch.loss, rel=1e-5)
        assert written.noisy_accuracy == pytest.approx(epoch.noisy_accuracy, rel=1e-5)


def test_an_epoch_takes_every_image_once_and_a_step_is_told_its_number(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, list[bytes]]] = []

    def counting(images: Any, recipe: Recipe, step: int, attack: Any) -> Any:
        taken.append((step, [image.tobytes() for image in images.numpy()]))
        return noisy_batch(images, recipe, step, attack)

    monkeypatch.setattr(classifier, "noisy_batch", counting)
    run(tmp_path)
    assert [step for step, _ in taken] == list(range(STEPS))
    epochs = [[image for _, batch in taken[k : k + 3] for image in batch] for k in (0, 3, 6)]
    assert all(len(set(epoch)) == len(epoch) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("seconds", [0.0, math.inf], ids=["a checkpoint a step", "a checkpoint an epoch"])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    run: Run, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, seconds: float
) -> None:
    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_CHECKPOINTS", seconds - 1e-9)
    with pytest.raises(Interrupted):
        run(tmp_path, on_progress=stop_at(step))
    taken: list[int] = []
    network = run(tmp_path, on_progress=lambda progress: taken.append(progress.step))
    assert taken == list(range((step if seconds == 0.0 else step - step % 3) + 1, STEPS + 1))
    assert (save(network), untimed(tmp_path)) == undisturbed


def test_a_run_interrupted_after_every_step_ends_like_an_undisturbed_one(
    run: Run, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    for step in range(1, STEPS + 1):
        torch.manual_seed(step)  # what the process has drawn elsewhere does not matter
        with pytest.raises(Interrupted):
            run(tmp_path, on_progress=stop_at(step))
    assert (save(run(tmp_path)), untimed(tmp_path)) == undisturbed


@pytest.mark.parametrize("failing", ["torch.save", "os.fsync", "certserve.training.log.write"])
def test_a_run_stopped_while_it_writes_ends_like_an_undisturbed_one(
    run: Run, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """In the middle of the second epoch's files, the first one's being there."""

    def fail(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        run(tmp_path, on_progress=lambda progress: patch.setattr(failing, fail) if progress.step == 5 else None)
    assert len(log.read(tmp_path / "log.tsv")) == (1 if failing.endswith("log.write") else 2)
    assert (save(run(tmp_path)), untimed(tmp_path)) == undisturbed


def test_the_result_depends_on_the_seed(run: Run, undisturbed: Any, recipe: Recipe, tmp_path: Path) -> None:
    assert save(run(tmp_path, recipe=dataclasses.replace(recipe, seed=1))) != undisturbed[0]


def test_the_result_is_the_average_of_the_weights_and_not_the_last_ones(
    run: Run, undisturbed: Any, recipe: Recipe, tmp_path: Path
) -> None:
    last = save(run(tmp_path, recipe=dataclasses.replace(recipe, ema_decay=0.0)))
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(kept["network"][name], value) for name, value in kept["average"].items() if value.ndim)
    assert last != undisturbed[0]


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": {"seed": 1}},
        {"recipe": {"epochs": 4}},
        {"recipe": {"sigma": 0.5}},
        {"recipe": {"precision": "bfloat16"}},
        {"recipe": {"threads": 2}},
        {"architecture": dataclasses.replace(NETWORK, mean=(0.4,))},
        {"data": "one pixel"},
        {"held_out": "one pixel"},
        {"start": ResidualNetwork(NETWORK)},
    ],
    ids=lambda other: "-".join(map(str, next(iter(other.items()))))[:30],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(
    run: Run, data: Dataset, recipe: Recipe, tmp_path: Path, other: dict[str, Any]
) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, on_progress=stop_at(4))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = dict(other)
    if "recipe" in other:
        changed["recipe"] = dataclasses.replace(recipe, **other["recipe"])
    for name, part in zip(("data", "held_out"), split(data, "ab", recipe), strict=True):
        if name in other:
            part.images[0, 0, 0, 0] ^= 1
            changed[name] = part
    with pytest.raises(RecipeError, match=FOLDER_IS_OF_ANOTHER):
        run(tmp_path, **changed)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_checkpoint_is_a_clear_error(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecipeError, match=r"checkpoint\.pt: the checkpoint is damaged"):
        run(tmp_path)


def test_a_loss_that_is_no_number_is_a_clear_error(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    wild = dataclasses.replace(recipe, learning_rate=1e30)
    with pytest.raises(RecipeError, match=r"^the loss of step \d is (nan|inf); a lower learning rate may help$"):
        run(tmp_path, recipe=wild)


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_settings_of_torch_are_what_they_were(run: Run, recipe: Recipe, tmp_path: Path, ends: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    torch.rand(1)  # the generator is now in no state that a run begins or ends in
    state, seen = torch.get_rng_state(), []

    def told(_: Progress) -> None:
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        if ends == "badly":
            raise Interrupted

    try:
        if ends == "badly":
            with pytest.raises(Interrupted):
                run(tmp_path, on_progress=told)
        else:
            run(tmp_path, on_progress=told)
        assert set(seen) == {(recipe.threads, True)}
        assert torch.get_num_threads() == threads + 1
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)


def test_a_run_begins_with_the_weights_it_is_given(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    """Steps too small to change a float leave them as they are; the statistics of the images move."""
    still = dataclasses.replace(recipe, learning_rate=1e-30, ema_decay=0.0)
    start = run(tmp_path / "first")
    before = save(start)
    network = run(tmp_path / "second", start=start, recipe=still)
    fresh = run(tmp_path / "third", recipe=still)
    assert save(start) == before
    weights = dict(network.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in start.named_parameters())
    assert not all(torch.equal(weights[name], value) for name, value in fresh.named_parameters())


def test_accuracy_under_noise_is_the_share_of_right_answers(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    """More images than are run at once: the share is over all of them."""
    network = run(tmp_path)
    network.train()
    images = np.repeat(np.array([0, 255], np.uint8), 64).reshape(2, 1, 8, 8)
    data = Dataset(np.tile(images, (300, 1, 1, 1)), np.tile([0, 1], 300), np.arange(600))
    data.labels[:150] = 1 - data.labels[:150]
    found = noisy_accuracy(network, Examples.of(data, torch.device("cpu")), recipe)
    assert found == 0.75
    assert not network.training


@pytest.mark.parametrize(
    ("widths", "device", "expected"),
    [
        ((4, 6), "cpu", torch.contiguous_format),
        ((16, 8), "cpu", torch.channels_last),
        ((16, 15, 32), "cpu", torch.contiguous_format),
        ((4, 6), "cuda", torch.channels_last),
    ],
)
def test_channels_come_last_where_that_is_safe(widths: tuple[int, ...], device: str, expected: Any) -> None:
    """A narrow shortcut laid out so on a processor fails: its gradient writes past its buffer."""
    architecture = dataclasses.replace(NETWORK, stages=tuple(Stage(width, 1) for width in widths))
    assert layout(architecture, torch.device(device)) is expected


def test_the_gradient_of_narrow_shortcuts(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    """Weights that are no numbers, or a crash, in float32 with all widths from 1 to 9 fail."""
    for width in range(1, 10):
        stages = (Stage(width, 1), Stage(width + 2, 1))
        narrow = dataclasses.replace(recipe, precision="float32", widths=(width, width + 2), epochs=1)
        network = run(tmp_path / str(width), architecture=dataclasses.replace(NETWORK, stages=stages), recipe=narrow)
        assert all(bool(value.isfinite().all()) for value in network.state_dict().values())
