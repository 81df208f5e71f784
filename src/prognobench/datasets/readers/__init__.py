"""What cohorts have in common, one file per step from a file's bytes to a cohort: rows of text
(``table_files``, ``workbooks``), named columns (``spreadsheet``), values, images, and assembly.

A cohort of its own is one file in ``datasets``; decoding is in ``imaging``.
"""
