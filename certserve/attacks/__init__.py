"""Attacks on smoothed classifiers, by gradients of the network: what a certificate is tried against. Needs torch."""
