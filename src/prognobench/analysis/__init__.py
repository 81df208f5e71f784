"""What results say, from stored predictions only: scores, intervals, comparisons, tables, plots."""
