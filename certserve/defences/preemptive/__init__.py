"""Preemptive robustification: an image is moved, within a budget, to where adversaries reach less.

None of it is a guarantee: what can be promised of the moved image is the certificate of that very image. Needs torch,
but for `methods`.
"""
