"""Engines: one file for each way to start workers on a results folder.

An engine moves no data and no results. Each worker takes the next cell that is neither done nor
leased, until none is left; what a worker does is in :mod:`prognobench.runs.execute`.
"""
