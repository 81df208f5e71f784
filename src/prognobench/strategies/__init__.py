"""Adaptation strategies, one file per family: builders that return an Adapted, Probe or Estimator.

The training loop lies in ``training``, the fitting of heads and classifiers in ``frozen``. There
are many files because each family has its own; ``adapted``, ``adapted_files``, ``peft_adapted``,
``targets``, ``settings`` and ``costs`` are what they share.
"""
