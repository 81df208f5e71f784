"""Cohort readers and generators: one file per family, each builder returns a Cohort."""
