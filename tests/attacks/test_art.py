"""Without noise, PGD agrees with adversarial-robustness-toolbox, where that is installed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports'
    evasion = pytest.importorskip("art.attacks.evasion")
    classification = pytest.importorskip("art.estimators.classification")

from certserve.attacks.goals import Goal  # noqa: E402 (after the checks)
from certserve.attacks.norms import Norm  # noqa: E402
from certserve.attacks.pgd import PGD, pgd  # noqa: E402

SHAPE, CLASSES = (3, 4, 4), 5


@pytest.mark.parametrize(("norm", "order", "epsilon"), [(Norm.L2, 2, 0.8), (Norm.LINF, np.inf, 0.06)])
@pytest.mark.parametrize("goal", Goal)
def test_the_same_images_as_the_toolbox(norm: Norm, order: float, epsilon: float, goal: Goal) -> None:
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 16), torch.nn.Tanh(), torch.nn.Linear(16, CLASSES)
    ).eval()
    images = torch.rand(12, *SHAPE)
    labels = torch.arange(12) % CLASSES
    estimator = classification.PyTorchClassifier(
        network, torch.nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=(0.0, 1.0), device_type="cpu"
    )
    theirs = evasion.ProjectedGradientDescent(
        estimator, norm=order, eps=epsilon, eps_step=epsilon / 4, max_iter=9, targeted=goal is Goal.REACH, verbose=False
    ).generate(images.numpy(), np.eye(CLASSES, dtype=np.float32)[labels.numpy()])
    ours = pgd(
        network,
        images,
        labels,
        epsilon=torch.full((12,), epsilon),
        how=PGD(norm=norm, steps=9, step=0.25, sigma=0.0, draws=1, goal=goal),
        generator=torch.Generator(),
    )
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-5)
    assert float(np.abs(theirs - images.numpy()).max()) > 0.05
