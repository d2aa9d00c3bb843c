"""The noise of draw i as a pure function of (key, i): exact, replayable, random access.

Two arithmetics, each with its own claim (`arithmetic_error`): `grid` for 8-bit images, `float` for float tensors.
"""
