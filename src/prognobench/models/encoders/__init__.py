"""Modules behind :class:`~prognobench.records.Backbone`; they import torch, so import them late."""
