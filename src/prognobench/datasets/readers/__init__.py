"""What cohorts have in common: tables, cells, image folders, TCIA trees, and the rules for gaps.

A cohort of its own is one file in ``datasets``; decoding is in ``imaging``.
"""
