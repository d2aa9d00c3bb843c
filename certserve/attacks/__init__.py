"""Attacks by gradients of a network: what certificates and defences are tried against. Needs torch."""
