"""Cohorts: one file each, with one registered builder that returns a :class:`.records.Cohort`.

Tables and folders are read in ``readers``, synthetic images are drawn in ``synthetic``, pixels are
decoded in ``imaging``.
"""
