"""One experiment, from a config to files in the store: prepare, execute, plan, predict.

How a model is trained lives in ``training`` and ``frozen``; what results say, in ``analysis``.
"""
