"""Adaptation strategies: one file per family; builders return Adapted, Probe or Estimator."""
