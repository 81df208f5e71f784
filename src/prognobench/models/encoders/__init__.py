"""The modules of a :class:`~prognobench.records.Backbone`: wrapped timm networks and their files.

These modules import torch, so import them inside functions.
"""
