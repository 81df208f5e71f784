"""The HTML report: its sections, figures and templates.

Estimates and tests are those of ``statistics``; modules here apply them and lay out the numbers.
"""
