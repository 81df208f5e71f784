"""Metrics: pure functions on arrays, each with its direction and bounds."""
