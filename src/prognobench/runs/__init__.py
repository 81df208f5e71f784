"""One experiment, from configs to files in the store. In reading order: kinds, workspace, prepare,
execute, dispatch, trained_cells or frozen_cells, recording; plan and predict stand beside.

Strategies of the two kinds part in ``dispatch``; what a plan estimates is measured in ``measure``.
The run's key is made in ``store``. How a model is trained lives in ``training`` and ``frozen``;
what results say, in ``analysis``.
"""
