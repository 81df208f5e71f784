"""Adaptation strategies, one file per family: builders that return an Adapted, Probe or Estimator.

The training loop lies in ``training``, the fitting of heads and classifiers in ``frozen``.
"""
