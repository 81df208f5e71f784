"""One experiment, from configs to files in the store, one file per step. In reading order: kinds,
workspace, prepare, execute, dispatch, and ``cells/``, where they are computed.

``engines/`` starts workers, of whom ``sweeps`` and ``status`` tell; ``plan`` says beforehand what
runs cost, and ``measure`` finds it out. ``applying/`` takes stored models to new images. The run's
key is made in ``store``. How a model is trained lives in ``training`` and ``frozen``; what results
say, in ``analysis``.
"""
