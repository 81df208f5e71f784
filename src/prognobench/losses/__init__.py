"""Losses: builders turn the class counts of a training part into a Loss, which is numbers only.

The formula that all of them share is in ``objective``; it is minimised in ``training`` and
``frozen``.
"""
