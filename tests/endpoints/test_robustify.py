"""Robustify in this process: the file that comes back, the certificates of both images, and what is refused."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import certserve  # noqa: E402 (after the check that torch is there)
from certserve import errors  # noqa: E402
from certserve.datasets import read  # noqa: E402
from certserve.defences.preemptive.methods import Bilevel, CertMargin, Fast, Method, Qualities  # noqa: E402
from certserve.endpoints.smoothing import SmoothingEndpoints  # noqa: E402
from certserve.images import ImageFit, RawImage, encode_png  # noqa: E402
from certserve.noise.keystream import Secret  # noqa: E402
from certserve.smoothing.outcomes import Certificate  # noqa: E402

SECRET = Secret(bytes(range(32)))
SHORT = CertMargin(steps=3, draws=4, refinements=1)
QUICK: dict[str, Any] = {"delta": 0.5, "n0": 10, "n": 100, "alpha": 0.01, "method": SHORT}


@pytest.fixture(scope="module")
def digits() -> Iterator[Any]:
    """The packaged digits, in torch."""
    with certserve.open("mnist", execution="torch-float32", key_source=SECRET) as opened:
        yield opened


def picture(seed: int = 1) -> Any:
    """A blot in the middle of 28 x 28 pixels."""
    pixels = np.zeros((1, 28, 28), np.uint8)
    pixels[0, 6:22, 12:17] = np.random.default_rng(seed).integers(150, 256, (16, 5))
    return pixels


def test_the_file_is_the_image_and_within_delta(digits: Any) -> None:
    result = digits.robustify(picture(), **QUICK)
    assert not np.array_equal(result.pixels, picture())
    change = np.abs(result.pixels.astype(int) - picture())
    assert Fraction(int((change**2).sum()), 255**2) <= Fraction(0.5) ** 2
    assert result.l2 == pytest.approx(np.sqrt((change**2).sum()) / 255)
    assert result.linf == change.max() / 255
    again = certserve.EncodedImage(result.png)
    assert digits.certify(again, n0=10, n=100, alpha=0.01) == result.after
    assert digits.certify(RawImage(picture()), n0=10, n=100, alpha=0.01) == result.before


def test_both_certificates_answer_the_same_question_on_draws_of_their_own(digits: Any) -> None:
    result = digits.robustify(picture(), **QUICK, bound="two-class", nonce=b"once")
    for name in ("sigma", "n0", "n", "alpha", "plan", "bound", "arithmetic", "nonce"):
        assert getattr(result.before.setting, name) == getattr(result.after.setting, name)
    assert result.after.setting.bound == "two-class"
    assert (result.after.setting.n0, result.after.setting.n) == (10, 100)
    assert result.before.origin.space.digest != result.after.origin.space.digest  # which is in the key
    assert result.before.origin.fingerprint == result.after.origin.fingerprint


def test_what_is_asked_again_is_answered_alike(digits: Any) -> None:
    one, same = (digits.robustify(picture(), **QUICK) for _ in range(2))
    other = digits.robustify(picture(), **QUICK, nonce=b"another")
    assert one.png == same.png
    assert one.after == same.after
    assert not np.array_equal(one.pixels, other.pixels)


def test_with_jpeg_it_is_another_search_of_grey_images_too(digits: Any) -> None:
    plain = digits.robustify(picture(), **QUICK)
    aware = digits.robustify(picture(), **{**QUICK, "method": dataclasses.replace(SHORT, jpeg=Qualities(40, 60))})
    assert aware.method.jpeg == Qualities(40, 60)
    assert not np.array_equal(aware.pixels, plain.pixels)


def test_the_efficiency_is_the_growth_of_the_radius_in_units_of_delta(digits: Any) -> None:
    result = digits.robustify(picture(), **QUICK)
    assert isinstance(result.after, Certificate)
    grown = result.after.radius - (result.before.radius if isinstance(result.before, Certificate) else 0.0)
    assert result.uplift_efficiency == pytest.approx(grown / 0.5)
    label = result.after.label
    changed = dataclasses.replace(result, after=dataclasses.replace(result.after, label=label + 1))
    assert (result.label_kept, changed.label_kept, changed.success) == (True, False, False)
    assert changed.radius_after == 0.0
    linf = digits.robustify(picture(), **{**QUICK, "delta": 0.05}, norm="Linf")
    assert linf.uplift_efficiency is None
    assert linf.linf <= 0.05


@pytest.mark.parametrize("method", [Bilevel(steps=2, inner_steps=2, draws=1), Fast(draws=3), "fast", Method.FAST])
def test_the_other_methods(digits: Any, method: Any) -> None:
    result = digits.robustify(picture(), **{**QUICK, "method": method})
    assert type(result.method) is (Fast if isinstance(method, str) else type(method))
    assert 0 < result.l2 <= 0.5 or np.array_equal(result.pixels, picture())
    assert 0 < result.passes <= result.method.most_passes


def test_a_larger_file_comes_back_at_the_models_size(digits: Any) -> None:
    large = encode_png(np.kron(picture(), np.ones((1, 2, 2), np.uint8)), "grey")
    result = digits.robustify(large, **QUICK, fit=ImageFit.RESIZE_CROP)
    assert result.pixels.shape == (1, 28, 28)
    assert "after resizing" in result.before.origin.space.description
    assert result.after.origin.space.description == "the 28x28 grey pixels as decoded"


def test_progress_ends_at_the_total(digits: Any) -> None:
    told: list[tuple[int, int]] = []
    digits.robustify(picture(), **QUICK, on_progress=lambda *now: told.append(now))
    done = [now for now, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1]
    assert {of for _, of in told} == {2 * (10 + 100 + 1000) + SHORT.most_passes}


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"delta": 0.0}, "delta", "positive"),
        ({"delta": -1}, "delta", "positive"),
        ({"delta": 29.0}, "delta", "at most 28"),
        ({"delta": "much"}, "delta", "not a number"),
        ({"delta": None}, "delta", "missing"),
        ({"epsilon": 0.0}, "epsilon", "positive"),
        ({"norm": "L1"}, "norm", "not one of L2, Linf"),
        ({"method": "best"}, "method", "cert-margin"),
        ({"sigma": 3.0}, "sigma", "not a noise level"),
        ({"n": 1}, "n", "smallest n"),
        ({"image": np.zeros((1, 28, 28), np.float32) + np.float32(0.3)}, "image", "multiples of 1/255"),
        ({"image": np.zeros((1, 27, 28), np.uint8)}, "image", "shape"),
        ({"image": b"no image"}, "image", "not a readable"),
    ],
)
def test_what_cannot_be_asked_is_named(digits: Any, change: Any, field: str, message: str) -> None:
    question = {**QUICK, "image": picture(), **change}
    with pytest.raises(errors.InvalidRequest, match=message) as caught:
        digits.robustify(question.pop("image"), **question)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_all_that_is_wrong_is_named_at_once(digits: Any) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        digits.robustify(b"", delta=-1.0, sigma=9.0, alpha=2.0)
    assert {violation.field for violation in caught.value.violations} == {"delta", "sigma", "alpha", "image"}


def test_a_bundle_without_weights_for_torch_says_what_is_missing(model: Any, harness: Any) -> None:
    with pytest.raises(errors.BundleError, match=r"no weights for torch .* `certserve train` has them"):
        model.robustify(harness.image(), delta=0.5)


def test_out_of_time_the_search_ends(digits: Any) -> None:
    endless = Bilevel(steps=10_000)
    with pytest.raises(errors.DeadlineExceeded, match="fast"):
        digits.robustify(picture(), **{**QUICK, "method": endless}, timeout=1.0)
    start = time.perf_counter()
    digits.robustify(picture(), **QUICK)  # the one thread that searches is free again
    assert time.perf_counter() - start < 30


def test_what_a_search_found_is_certified_once_there_is_room(digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose certificate is refused because others wait is lost; one that has not begun is better refused."""
    expected, asked, busy = digits.robustify(picture(), **QUICK), 0, {2, 3}
    certify = SmoothingEndpoints.certify

    async def crowded(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked in busy:
            raise errors.Overloaded("9 draws are waiting; try again later.", retry_after=0.01)
        return await certify(self, *args, **kwargs)

    monkeypatch.setattr(SmoothingEndpoints, "certify", crowded)
    told: list[tuple[int, int]] = []
    result = digits.robustify(picture(), **QUICK, on_progress=lambda done, total: told.append((done, total)))
    assert (result.png, result.after, asked) == (expected.png, expected.after, 4)
    assert told[-1][0] == told[-1][1]
    busy.add(5)
    with pytest.raises(errors.Overloaded):
        digits.robustify(picture(), **QUICK)
    assert asked == 5


def test_a_closed_model_says_so() -> None:
    opened = certserve.open("mnist", execution="torch-float32")
    opened.close()
    with pytest.raises(errors.Unavailable, match="closed"):
        opened.robustify(picture(), delta=0.5)


def test_real_images_gain_a_good_part_of_delta(shared_data: Path) -> None:
    data = read([shared_data / "cifar10" / "cifar10_test_a.npz"])
    chosen = [7, 9]  # of small radii: few draws show how much they grow
    with certserve.open("cifar10", execution="torch-float32", key_source=SECRET) as opened:
        results = [
            opened.robustify(data.images[i], delta=0.5, n=300, method=CertMargin(steps=8, draws=16)) for i in chosen
        ]
    before = [result.radius_before for result in results]
    after = [result.radius_after for result in results]
    assert all(result.label_kept for result in results)
    assert np.mean(after) - np.mean(before) > 0.3 * 0.5, (before, after)
