"""Base classifiers for Gaussian smoothing: trained with noise, quantised, made into bundles."""
