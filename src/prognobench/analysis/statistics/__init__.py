"""One file for each statistic, with the table that shows it: a new statistic is a new file here.

What is drawn or shown on the page is in ``report``; how predictions become scores, one floor
below.
"""
