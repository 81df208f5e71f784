"""Made patients and batched classifiers for the simulations of tests and intervals."""
