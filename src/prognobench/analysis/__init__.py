"""What results say: predictions -> thresholds -> scores -> statistics -> summaries -> report.

This room reads stored runs (``store``) and ``metrics`` only. How predictions come about lives in
``runs``, ``training`` and ``frozen``.
"""
