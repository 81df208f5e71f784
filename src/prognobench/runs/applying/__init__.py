"""Stored models on new images: which images, the models of a run's cells, their predictions.

Scores of labelled images live in ``analysis``.
"""
