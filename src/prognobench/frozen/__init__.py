"""Backbones that stay frozen: the bank of embeddings, and the heads and classifiers on it.

``probes`` and ``estimators`` fit and choose by validation (head, penalty C, candidate);
``heads`` and ``logistic_solver`` compute. What trains a backbone lives in ``training``.
"""
