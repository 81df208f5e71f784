"""One file for each statistic, with the table that shows it: a new statistic is a new file here.

What is drawn or goes on the page lives in ``report``; how predictions become scores, one floor
below.
"""
