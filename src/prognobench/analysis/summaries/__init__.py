"""What scores say, one file for each question: means, comparisons, the best, costs, the verdict.

Each file computes and returns its table. The methods behind it live in ``statistics``; what is
drawn or goes on the page lives in ``report``.
"""
