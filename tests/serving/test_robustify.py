"""Robustify over gRPC: what comes back, what is refused, and what a server spends on it at most."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from certserve import errors, zoo
from certserve.client import AsyncClient, Client
from certserve.defences.preemptive.methods import Bilevel, CertMargin, Fast
from certserve.images import ImageFit, encode_png
from certserve.serving.config import Address, Config, RobustifyConfig
from certserve.smoothing.outcomes import Certificate

SHORT = CertMargin(steps=3, draws=4, refinements=1)
QUICK: dict[str, Any] = {"delta": 0.5, "n0": 10, "n": 100, "alpha": 0.01, "method": SHORT}
LONG: dict[str, Any] = {**QUICK, "method": Bilevel(steps=20, inner_steps=20, draws=1)}


def picture(seed: int = 1) -> Any:
    """A blot in the middle of 28 x 28 pixels."""
    pixels = np.zeros((1, 28, 28), np.uint8)
    pixels[0, 6:22, 12:17] = np.random.default_rng(seed).integers(150, 256, (16, 5))
    return pixels


@pytest.fixture(scope="module")
def running(harness: ModuleType, bundles: dict[str, Path]) -> Iterator[Any]:
    """A server of the packaged digits, and of a model without gradients; one search and one more request at once."""
    loaded = [harness.LoadedModel.read(path) for path in (zoo.path_of("mnist"), bundles["half"])]
    config = Config(server=Address(port=0), robustify=RobustifyConfig(waiting=1, largest_passes=1000))
    with harness.Server(loaded, config=config) as server:
        yield server


@pytest.fixture
def client(running: Any) -> Iterator[Client]:
    with running.client() as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def asked(request: pytest.FixtureRequest, harness: ModuleType, running: Any, loop: Any) -> Iterator[Any]:
    face = harness.face(request.param, running.target, loop)
    yield face
    face.close()


class TestAnswers:
    """What comes back."""

    def test_the_file_has_the_certificate_that_certify_gives(self, asked: Any) -> None:
        found = asked.robustify(picture(), **QUICK)
        assert asked.certify(found.png, n0=10, n=100, alpha=0.01) == found.after
        assert asked.certify(picture(), n0=10, n=100, alpha=0.01) == found.before
        assert asked.predict(found.png, alpha=0.01) == found.predicted_after
        assert asked.predict(picture(), alpha=0.01) == found.predicted_before
        assert found.png == encode_png(found.pixels, "grey")
        change = found.pixels.astype(int) - picture()
        assert 0 < (change**2).sum() <= (0.5 * 255) ** 2
        assert (found.method, found.budget.delta, found.budget.epsilon) == (SHORT, 0.5, 0.5)
        assert 0 < found.passes <= SHORT.most_passes

    def test_the_stream_ends_in_the_same_result(self, asked: Any) -> None:
        told: list[tuple[int, int]] = []
        followed = asked.robustify(picture(), **QUICK, on_progress=lambda *now: told.append(now))
        alone = asked.robustify(picture(), **QUICK)
        assert (followed.png, followed.after, followed.passes) == (alone.png, alone.after, alone.passes)
        assert told == sorted(told)
        assert told[-1] == (2 * (10 + 100 + 1000) + SHORT.most_passes,) * 2

    @pytest.mark.parametrize("method", ["fast", Fast(draws=3), Bilevel(steps=2, inner_steps=2, draws=1)])
    def test_other_questions(self, client: Client, method: Any) -> None:
        asked = {"norm": "Linf", "bound": "two-class", "nonce": b"x", "fit": ImageFit.RESIZE_CROP, "epsilon": 0.03}
        large = encode_png(np.kron(picture(), np.ones((1, 2, 2), np.uint8)), "grey")
        found = client.robustify(large, **{**QUICK, "delta": 0.05, "method": method, **asked})
        assert found.method == (Fast() if method == "fast" else method)
        assert (found.budget.norm, found.budget.delta, found.budget.epsilon) == ("Linf", 0.05, 0.03)
        assert (found.after.setting.bound, found.after.setting.nonce) == ("two-class", b"x".hex())
        assert 0 < found.linf <= 0.05
        assert found.uplift_efficiency is None

    def test_get_model_tells_who_can_be_asked(self, client: Client) -> None:
        digits, half = client.get_model("mnist"), client.get_model("half")
        assert (digits.robustify, digits.largest_passes, digits.surrogate) == (True, 1000, False)
        assert (half.robustify, half.largest_passes, half.surrogate) == (False, 0, False)


class TestRefusals:
    """A clear error each."""

    @pytest.mark.parametrize(
        ("change", "field", "message"),
        [
            ({"delta": 0.0}, "delta", "positive"),
            ({"delta": -1.0}, "delta", "positive"),
            ({"delta": 29.0}, "delta", "at most 28"),
            ({"delta": None}, "delta", "missing"),
            ({"epsilon": -1.0}, "epsilon", "positive"),
            ({"sigma": 3.0}, "sigma", "not a noise level"),
            ({"n": 1}, "n", "smallest n"),
            ({"image": b"no image"}, "image", "not a readable"),
            ({"image": np.zeros((1, 27, 28), np.uint8)}, "image", "shape"),
            ({"method": CertMargin(steps=40)}, "method", "1344 passes .* at most 1000"),
            ({"method": CertMargin(steps=1, draws=257, refinements=0)}, "method", "257 draws .* at most 256"),
        ],
    )
    def test_what_cannot_be_asked_is_named(self, client: Client, change: Any, field: str, message: str) -> None:
        question = {**QUICK, "image": picture(), **change}
        with pytest.raises(errors.InvalidRequest, match=message) as caught:
            client.robustify(question.pop("image"), **question)
        assert [violation.field for violation in caught.value.violations] == [field]

    def test_a_model_without_gradients(self, asked: Any, harness: ModuleType, bundles: dict[str, Path]) -> None:
        error = harness.raised(lambda: asked.robustify(harness.image(), delta=0.5, model="half"))
        assert type(error) is errors.BundleError
        assert "half has no weights for torch" in str(error)
        assert "`certserve train` has them" in str(error)
        assert str(bundles["half"]) not in str(error), "the server's paths are its own"

    def test_a_model_that_is_not_there(self, client: Client) -> None:
        with pytest.raises(errors.ModelNotFound, match="mnist, half"):
            client.robustify(picture(), **QUICK, model="none")

    def test_switched_off(self, harness: ModuleType) -> None:
        loaded = [harness.LoadedModel.read(zoo.path_of("mnist"))]
        config = Config(server=Address(port=0), robustify=RobustifyConfig(enabled=False))
        with harness.Server(loaded, config=config) as server, server.client() as client:
            for told in (None, lambda done, planned: None):
                with pytest.raises(errors.Infeasible, match="robustifies nothing"):
                    client.robustify(picture(), **QUICK, on_progress=told)
            assert not client.get_model().robustify
            assert client.predict(picture(), n=100)


class Gate:
    """The network that is searched with: while it is shut, a pass waits in it."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._open = threading.Event()
        self.inside = self.passes = 0

    def __call__(self, rows: Any) -> Any:
        self.passes += 1
        self.inside += 1
        assert self._open.wait(60)
        self.inside -= 1
        return self._network(rows)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(running: Any, client: Client) -> Iterator[Gate]:
    """A shut one, in front of the digits' network."""
    client.robustify(picture(), **QUICK)  # which reads the network
    networks = running.running.service.robustify._networks
    usual = networks["mnist"]
    networks["mnist"] = shut = Gate(usual)
    yield shut
    shut.open()
    networks["mnist"] = usual


def present(running: Any) -> int:
    """Robustify requests in progress."""
    return int(running.running.service.robustify._searches._present)


class TestEnds:
    """Nobody searches for those who have left."""

    @pytest.mark.parametrize("told", [None, lambda done, planned: None], ids=["unary", "stream"])
    def test_a_caller_who_leaves_ends_the_search(
        self, harness: ModuleType, running: Any, loop: Any, client: Client, gate: Gate, told: Any
    ) -> None:
        async def leave() -> None:
            async with AsyncClient(running.target) as leaving:
                task = asyncio.create_task(leaving.robustify(picture(), **LONG, on_progress=told))
                while not gate.inside:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                while present(running):
                    await asyncio.sleep(0.01)

        loop.run(leave())
        self._nothing_more(harness, client, gate)

    @pytest.mark.parametrize("told", [None, lambda done, planned: None], ids=["unary", "stream"])
    def test_a_deadline_ends_the_search(
        self, harness: ModuleType, running: Any, client: Client, gate: Gate, told: Any
    ) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            client.robustify(picture(), **LONG, on_progress=told, timeout=3.0)
        assert gate.inside == 1, "the search had begun"
        assert harness.eventually(lambda: present(running) == 0)
        self._nothing_more(harness, client, gate)

    def _nothing_more(self, harness: ModuleType, client: Client, gate: Gate) -> None:
        """The pass that ran ends, and no other follows it: the thread is free for the next."""
        assert gate.passes == 1
        gate.open()
        assert harness.eventually(lambda: gate.inside == 0)
        found = client.robustify(picture(), **QUICK)
        judged = 3 * 4  # 256 draws of each candidate, 64 at a time
        labels = 1
        steps = SHORT.steps + SHORT.refinements
        assert gate.passes == 1 + labels + steps + judged, "one search, and one pass of the one that was left"
        assert found.passes == SHORT.most_passes


class TestBounds:
    """One search at once, one more request, and the rest of the server goes on."""

    def test_more_than_may_wait_is_refused(self, harness: ModuleType, running: Any, client: Client, gate: Gate) -> None:
        with ThreadPoolExecutor(2) as pool:
            busy = [pool.submit(client.robustify, picture(seed), **QUICK) for seed in (1, 2)]
            assert harness.eventually(lambda: present(running) == 2)
            assert harness.eventually(lambda: gate.inside == 1)
            error = harness.raised(lambda: client.robustify(picture(), **QUICK))
            assert type(error) is errors.Overloaded
            assert error.retry_after > 0
            assert client.predict(picture(), n=100, timeout=30), "answered while the search is held up"
            assert client.certify(picture(), n=100, alpha=0.01, timeout=30)
            assert gate.inside == 1, "one search at once"
            assert not any(task.done() for task in busy)
            gate.open()
            assert all(task.result(timeout=60).passes == SHORT.most_passes for task in busy)
        assert client.robustify(picture(), **QUICK)


def test_two_processes_agree(harness: ModuleType, command: ModuleType, tmp_path: Path) -> None:
    """Robustify in one, Certify and Predict in the other, with one secret: the same certificates, vote by vote."""
    secret = tmp_path / "secret"
    secret.write_text(harness.SECRET.secret_bytes.hex(), encoding="ascii")
    words = ["--address", "127.0.0.1:0", "--json", "--model", "cifar10", "--secret-file", str(secret)]
    ramp = np.linspace(40, 230, 32)
    sky = np.stack([np.broadcast_to(ramp[:, None] * share, (32, 32)) for share in (0.6, 0.8, 1.0)]).astype(np.uint8)
    sky[:, 14:17, 4:28] = 250
    asked: dict[str, Any] = {"n0": 20, "n": 200, "alpha": 0.01}
    with (
        command.started(*words) as (_, one),
        command.started(*words) as (_, other),
        Client(f"127.0.0.1:{one['port']}") as mover,
        Client(f"127.0.0.1:{other['port']}") as judge,
    ):
        found = mover.robustify(sky, delta=0.5, **asked, method=CertMargin(steps=4, draws=8))
        assert isinstance(found.after, Certificate)
        assert found.l2 > 0
        assert judge.certify(found.png, **asked) == found.after
        assert judge.certify(sky, **asked) == found.before
        assert judge.predict(found.png, alpha=0.01) == found.predicted_after
        assert judge.get_model().commitment == found.after.origin.commitment
