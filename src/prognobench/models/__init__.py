"""Backbones: one file per family, each builder returns a BackboneSource."""
