"""Plans: how many draws, at which of them to look, what error is spent, and what to conclude."""

from certserve.smoothing.plans.anytime import AnytimePredict
from certserve.smoothing.plans.fixed import Fixed, FixedPredict
from certserve.smoothing.plans.looks import Looks
from certserve.smoothing.plans.plan import Decider, Plan
from certserve.smoothing.plans.target import Target

__all__ = ["AnytimePredict", "Decider", "Fixed", "FixedPredict", "Looks", "Plan", "Target"]
