"""The server's answers are those of `certserve.open`, through either client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import certserve
from certserve.images import ImageFit, RawImage, encode_png
from certserve.noise.arithmetic import Arithmetic
from certserve.noise.keystream import Secret
from certserve.smoothing.outcomes import Abstention, Certificate, Prediction


@pytest.fixture(scope="module")
def local(harness: ModuleType, bundles: dict[str, Path]) -> Iterator[dict[str, Any]]:
    """The same models in this process, under the server's secret."""
    opened = {name: certserve.open(path, key_source=harness.SECRET) for name, path in bundles.items()}
    yield opened
    for model in opened.values():
        model.close()


def coloured() -> Any:
    """An image for the ONNX model."""
    return (np.arange(192) * 37 % 256).astype(np.uint8).reshape(3, 8, 8)


class TestEqualToInProcess:
    """One face is not another model."""

    @pytest.mark.parametrize("options", [{}, {"sigma": 0.5, "n": 250, "alpha": 0.05, "nonce": b"x"}])
    @pytest.mark.parametrize("brightness", [180, 128])
    def test_predict(self, client: Any, local: Any, harness: ModuleType, options: Any, brightness: int) -> None:
        """Every field of the outcome, votes and origin included, for an answer and for an abstention."""
        image = harness.image(brightness)
        outcome = client.predict(image, **options)
        assert outcome == local["half"].predict(image, **options)
        assert type(outcome) is (Prediction if brightness == 180 else Abstention)

    @pytest.mark.parametrize("options", [{}, {"sigma": 0.5, "n0": 30, "n": 250, "alpha": 0.05, "nonce": b"x"}])
    @pytest.mark.parametrize("brightness", [180, 128, 20])
    def test_certify(self, client: Any, local: Any, harness: ModuleType, options: Any, brightness: int) -> None:
        """The same for Certify; the class of label 0 among them."""
        image = harness.image(brightness)
        outcome = client.certify(image, **options)
        assert outcome == local["half"].certify(image, **options)
        assert type(outcome) is (Abstention if brightness == 128 else Certificate)

    def test_certify_does_not_overstate_the_known_radius(self, client: Any, harness: ModuleType) -> None:
        """The other class begins (180 - 127.5) / 255 away; the bound at this secret comes close to it."""
        outcome = client.certify(harness.image(180), n=4000)
        assert 0.85 * 52.5 / 255 < outcome.radius <= 52.5 / 255
        assert (outcome.label, outcome.label_name) == (1, "high")

    def test_an_onnx_model_by_name(self, client: Any, local: Any) -> None:
        """The second model of the server, with its own defaults."""
        assert client.certify(coloured(), model="waves") == local["waves"].certify(coloured())
        assert client.predict(coloured(), model="waves") == local["waves"].predict(coloured())

    def test_models(self, client: Any, local: Any) -> None:
        """All that is known of a model, the default one first."""
        assert client.list_models() == (*local["half"].list_models(), *local["waves"].list_models())
        assert client.get_model() == local["half"].get_model()
        assert client.get_model("waves") == local["waves"].get_model("waves")

    def test_the_defaults_are_the_bundles(self, client: Any, harness: ModuleType) -> None:
        """What the caller leaves out, the model fills in, and the answer says so."""
        asked = client.certify(harness.image()).setting
        defaults = harness.DEFAULTS
        assert (asked.sigma, asked.n0, asked.n, asked.alpha) == (
            defaults.sigma,
            defaults.n0,
            defaults.n,
            defaults.alpha,
        )
        assert (client.predict(harness.image()).setting.n, asked.plan) == (defaults.predict_n, "fixed")


class TestImages:
    """The pixels are the question, however they came."""

    def test_the_same_pixels_are_the_same_question(self, client: Any, harness: ModuleType, tmp_path: Path) -> None:
        """A PNG file, its bytes, uint8 numbers and float32 numbers on the grid draw the same noise."""
        pixels = harness.image()
        png = encode_png(pixels, "grey")
        path = tmp_path / "image.png"
        path.write_bytes(png)
        grid = pixels.astype(np.float32) / np.float32(255)
        outcomes = [client.certify(image) for image in (pixels, RawImage(pixels), png, path, str(path), grid)]
        assert {outcome.estimation for outcome in outcomes} == {outcomes[0].estimation}
        assert {outcome.selection for outcome in outcomes} == {outcomes[0].selection}
        assert {outcome.origin.space.digest for outcome in outcomes} == {outcomes[0].origin.space.digest}
        assert {outcome.setting.arithmetic for outcome in outcomes} == {"grid"}
        assert 0 < outcomes[0].estimation[0].counts[0] < 400  # so that equal noise shows

    def test_off_the_grid_the_arithmetic_is_float(self, client: Any, harness: ModuleType) -> None:
        """It is another question, with another deduction, and the answer says so."""
        pixels = harness.image().astype(np.float32) / np.float32(255)
        pixels[0, 0, 0] = 0.123
        outcome = client.certify(pixels)
        assert outcome.setting.arithmetic == "float"
        assert outcome.setting.arithmetic_error > client.certify(harness.image()).setting.arithmetic_error
        assert certserve.verify(outcome)

    def test_float_arithmetic_may_be_asked_for(self, client: Any, harness: ModuleType) -> None:
        """For 8-bit pixels as well."""
        outcome = client.certify(harness.image(), arithmetic=Arithmetic.FLOAT)
        assert outcome.setting.arithmetic == "float"

    def test_resizing(self, client: Any, harness: ModuleType) -> None:
        """The radius is about the resized pixels, and the certificate names them."""
        png = encode_png(np.full((1, 9, 12), 180, np.uint8), "grey")
        outcome = client.certify(png, fit=ImageFit.RESIZE_CROP)
        assert outcome.origin.space.shape == harness.SHAPE
        assert "resizing" in outcome.origin.space.description
        assert outcome.estimation == client.certify(np.full((1, 4, 4), 180, np.uint8)).estimation


class TestSameQuestionSameAnswer:
    """Alone, in company, after a restart: what is asked decides, and the secret."""

    @staticmethod
    def ask(target: Any, harness: ModuleType, number: int = 0) -> Any:
        """One of ten questions."""
        nonce = b"" if number == 0 else bytes([number])
        return target.certify(harness.image(150 + number), n=3000 + number, nonce=nonce)

    def test_beside_nine_others(self, server: Any, harness: ModuleType) -> None:
        """Ten at once, over ten connections: each as it was alone."""
        with server.client() as one:
            alone = [self.ask(one, harness, number) for number in range(10)]
        clients = [server.client() for _ in range(10)]
        with ThreadPoolExecutor(10) as pool:
            together = list(pool.map(lambda number: self.ask(clients[number], harness, number), range(10)))
        for opened in clients:
            opened.close()
        assert together == alone
        assert len({outcome.estimation for outcome in alone}) > 1

    def test_again(self, client: Any, harness: ModuleType) -> None:
        """A retry gets no second try."""
        assert self.ask(client, harness) == self.ask(client, harness)

    def test_after_a_restart(self, server: Any, loaded: Any, harness: ModuleType) -> None:
        """A new server with the same secret draws the same noise; one with another secret does not."""
        with server.client() as one:
            before = self.ask(one, harness)
        with harness.Server(loaded, harness.SECRET) as again, again.client() as one:
            assert self.ask(one, harness) == before
        with harness.Server(loaded, Secret(bytes(32))) as other, other.client() as one:
            after = self.ask(one, harness)
        assert after.estimation != before.estimation
        assert after.origin.commitment != before.origin.commitment
        assert after.setting == before.setting

    @pytest.mark.parametrize(
        "change", [{"nonce": b"2"}, {"n": 3001}, {"n0": 21}, {"alpha": 0.002}, {"sigma": 0.5}, {"nonce": bytes(64)}]
    )
    def test_another_question_draws_other_noise(self, client: Any, harness: ModuleType, change: Any) -> None:
        """Whatever the answer depends on is in the key."""
        asked: dict[str, Any] = {"n": 3000, "n0": 20, "alpha": 0.001, "sigma": 0.25, "nonce": b"1"}
        first = client.certify(harness.image(), **asked)
        second = client.certify(harness.image(), **(asked | change))
        assert first.estimation != second.estimation
