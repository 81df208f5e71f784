"""The HTML report: its sections, figures and templates.

The numbers that it shows come from ``statistics``; nothing here computes a new one.
"""
