"""Tests, intervals and resampling: a new method is a new file here.

They take predictions or scores and know no table. What is concluded with them lives in
``summaries`` and ``claims``.
"""
