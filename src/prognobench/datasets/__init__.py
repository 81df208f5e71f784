"""Cohorts: one file each, with one registered builder that returns a :class:`.records.Cohort`.

How tables and folders are read stands in ``readers``, how synthetic images are drawn in
``synthetic``; pixels are decoded in ``imaging``.
"""
