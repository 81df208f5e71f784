"""Statements about which choice is better, checked by one test over all data sets each.

Reading a file of claims, the evidence of each data set, the verdict and its tables live here; the
tests themselves are ``statistics.pooling`` and ``statistics.retraining``.
"""
