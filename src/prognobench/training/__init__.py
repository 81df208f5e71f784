"""Backbones that train: the loop, its optimiser, loader and hardware, in plain sight.

Nothing here knows runs, cells or the store.
"""
