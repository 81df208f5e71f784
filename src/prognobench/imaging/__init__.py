"""Decoding images, the pixel cache, augmentation."""
