"""On real digits the attacks are as strong as foolbox's, with the same settings."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports'
    foolbox = pytest.importorskip("foolbox")

from certserve.attacks.carlini_wagner import CarliniWagner, carlini_wagner  # noqa: E402 (after the checks)
from certserve.attacks.goals import Goal  # noqa: E402
from certserve.attacks.losses import logit_margin  # noqa: E402
from certserve.attacks.norms import Norm  # noqa: E402
from certserve.attacks.objectives import Evasion  # noqa: E402
from certserve.attacks.pgd import PGD, fgsm, pgd  # noqa: E402

SEARCHES, STEPS, FIRST, RATE = 5, 60, 0.1, 0.1


def theirs(network: Any) -> Any:
    """The network as foolbox takes it."""
    return foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")


@pytest.mark.parametrize(("kappa", "goal"), [(0.0, Goal.LEAVE), (2.0, Goal.LEAVE), (0.0, Goal.REACH)])
def test_carlini_and_wagners_distances_agree(digits: Any, kappa: float, goal: Goal) -> None:
    network, images, labels = digits.network, digits.images[:50], digits.labels[:50]
    criterion = foolbox.criteria.Misclassification(labels)
    if goal is Goal.REACH:
        labels = (labels + 1) % 10
        criterion = foolbox.criteria.TargetedMisclassification(labels)
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=SEARCHES, steps=STEPS, stepsize=RATE, confidence=kappa, initial_const=FIRST
    )
    reference = attack.run(theirs(network), images, criterion)
    found = carlini_wagner(
        Evasion(pipelines=(network,), kappa=kappa, goal=goal), images, labels,
        how=CarliniWagner(searches=SEARCHES, steps=STEPS, first=FIRST, rate=RATE),
    )  # fmt: skip
    for attacked in (reference, found.images):
        margins = logit_margin(network(attacked), labels, goal)
        assert bool((margins < 0).all())
        assert float(margins.max()) <= -kappa + 1e-4  # where foolbox fails it returns black images
    expected = float((reference - images).flatten(1).norm(dim=1).mean())
    assert float(found.distances.mean()) == pytest.approx(expected, rel=0.05)
    assert expected > 0.5


@pytest.mark.parametrize(
    ("norm", "steps", "attack", "epsilon"),
    [
        (Norm.L2, 1, foolbox.attacks.L2FastGradientAttack(), 1.0),
        (Norm.LINF, 1, foolbox.attacks.LinfFastGradientAttack(), 0.1),
        (Norm.L2, 10, foolbox.attacks.L2PGD(rel_stepsize=0.25, steps=10, random_start=False), 1.0),
        (Norm.LINF, 10, foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=10, random_start=False), 0.1),
    ],
)
def test_gradient_attacks_succeed_as_often(digits: Any, norm: Norm, steps: int, attack: Any, epsilon: float) -> None:
    network, images, labels = digits.network, digits.images[:500], digits.labels[:500]
    reference = attack.run(theirs(network), images, foolbox.criteria.Misclassification(labels), epsilon=epsilon)
    how = fgsm(norm) if steps == 1 else PGD(norm=norm, steps=steps, step=0.25, sigma=0.0, draws=1)
    ours = pgd(
        network, images, labels, epsilon=torch.full((500,), epsilon), how=how, generator=torch.Generator()
    ).float()  # fmt: skip
    success = [float((network(attacked).argmax(1) != labels).float().mean()) for attacked in (ours, reference)]
    assert success[0] == pytest.approx(success[1], abs=0.01)
    assert 0.1 < success[1] < 1.0
