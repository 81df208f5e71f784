"""Backbones that stay frozen: the bank of embeddings, and the heads and classifiers on it.

What trains a backbone lives in ``training``.
"""
