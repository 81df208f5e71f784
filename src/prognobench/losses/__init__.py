"""Losses: builders turn the class counts of a training part into a Loss."""
