"""One experiment, from configs to files in the store. In reading order: kinds, workspace, prepare,
execute, work, trained_cells or frozen_cells, recording; plan and predict stand beside.

How a model is trained lives in ``training`` and ``frozen``; what results say, in ``analysis``.
"""
