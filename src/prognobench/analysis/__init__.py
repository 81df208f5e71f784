"""What results say: predictions -> scores -> statistics -> tables and figures -> report.

This room reads stored runs (``store``) and ``metrics`` only. How predictions come about lives in
``runs``, ``training`` and ``frozen``.
"""
