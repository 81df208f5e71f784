"""Metrics: pure functions of a sample's labels, scores and decisions, each with its direction.

Which metrics a table shows, intervals and tests belong to ``analysis``, not here.
"""
