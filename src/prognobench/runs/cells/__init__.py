"""The cells of a run: whose turn it is, how they are computed, what is written of them.

Backbones that train and frozen ones part here. What cells of a frozen backbone share is computed
once for all of them. How a model is trained lives in ``training`` and ``frozen``.
"""
