"""Backbones: builders return a BackboneSource, which knows its weights without loading them.

Networks themselves are timm's; what wraps and fills them is in ``encoders``, which imports torch.
"""
