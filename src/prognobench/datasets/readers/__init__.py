"""What cohorts are handed out as: tables, values, trees of DICOM series, and the common rules.

A cohort of its own is one file in ``datasets``.
"""
