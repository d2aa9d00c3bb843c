"""APGD and Square succeed as often as those of adversarial-robustness-toolbox, where that is installed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports'
    evasion = pytest.importorskip("art.attacks.evasion")
    classification = pytest.importorskip("art.estimators.classification")

from certserve.attacks.aims import Smoothed, cross_entropy, logit_ratio, margin  # noqa: E402 (after the checks)
from certserve.attacks.apgd import APGD, apgd  # noqa: E402
from certserve.attacks.norms import Norm  # noqa: E402
from certserve.attacks.square import Square, square  # noqa: E402

ORDERS = {Norm.L2: 2, Norm.LINF: np.inf}
COUNT, POINTS = 300, 2.0


def estimator(digits: Any) -> Any:
    """The network as the toolbox takes it."""
    return classification.PyTorchClassifier(
        digits.network, torch.nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )


def rate(digits: Any, attacked: Any) -> float:
    """The share of answers that are wrong, in percent."""
    answers = digits.network(torch.as_tensor(attacked, dtype=torch.float32)).argmax(1)
    return 100 * float((answers != digits.labels[:COUNT]).float().mean())


@pytest.mark.parametrize(("norm", "epsilon"), [(Norm.L2, 0.9), (Norm.LINF, 0.07)])
@pytest.mark.parametrize(
    ("loss", "theirs"), [(cross_entropy, "cross_entropy"), (logit_ratio, "difference_logits_ratio")]
)
def test_apgd(digits: Any, norm: Norm, epsilon: float, loss: Any, theirs: str) -> None:
    images, labels, generator = digits.images[:COUNT], digits.labels[:COUNT], torch.Generator().manual_seed(0)
    aim = Smoothed(classifier=digits.network, loss=loss, sigma=0.0, draws=1, generator=generator)
    every = torch.full((COUNT,), epsilon, dtype=torch.float64)
    ours = apgd(aim, images, labels, epsilon=every, how=APGD(norm=norm, steps=20), generator=generator)
    np.random.seed(0)
    found = evasion.AutoProjectedGradientDescent(
        estimator(digits), norm=ORDERS[norm], eps=epsilon, eps_step=2 * epsilon, max_iter=20, nb_random_init=1,
        batch_size=COUNT, loss_type=theirs, verbose=False,
    ).generate(images.numpy(), np.eye(10, dtype=np.float32)[labels.numpy()])  # fmt: skip
    assert 15 < rate(digits, found) < 85
    assert rate(digits, ours.images) == pytest.approx(rate(digits, found), abs=POINTS)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of theirs for L2, where a window has no change
@pytest.mark.parametrize(("norm", "epsilon"), [(Norm.L2, 1.8), (Norm.LINF, 0.12)])
def test_square(digits: Any, norm: Norm, epsilon: float) -> None:
    images, labels, generator = digits.images[:COUNT], digits.labels[:COUNT], torch.Generator().manual_seed(0)
    aim = Smoothed(classifier=digits.network, loss=margin, sigma=0.0, draws=1, generator=generator)
    every = torch.full((COUNT,), epsilon, dtype=torch.float64)
    ours = square(aim, images, labels, epsilon=every, how=Square(norm=norm, queries=150), generator=generator)
    np.random.seed(0)
    found = evasion.SquareAttack(
        estimator(digits), norm=ORDERS[norm], eps=epsilon, max_iter=150, p_init=0.8, nb_restarts=1, batch_size=COUNT,
        verbose=False,
    ).generate(images.numpy(), np.eye(10, dtype=np.float32)[labels.numpy()])  # fmt: skip
    assert 15 < rate(digits, found) < 85
    assert rate(digits, ours.images) > rate(digits, found) - POINTS  # for L2 theirs shrinks what it should stretch
