"""One experiment, from configs to files in the store, one file per step. In reading order: kinds,
workspace, prepare, execute, dispatch, trained_cells or frozen_cells, recording.

``plan`` and ``predict`` are what else can be done with runs; ``measure`` belongs to the first,
``stored_models`` and ``new_images`` to the second. Strategies of the two kinds part in
``dispatch``. The run's key is made in ``store``. How a model is trained lives in ``training`` and
``frozen``; what results say, in ``analysis``.
"""
