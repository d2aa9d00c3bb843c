"""The mathematics of randomized smoothing: counts of votes in, certificates out.

Knows no model, no noise generator, no framework and no clock; numpy, scipy and mpmath only.
"""
