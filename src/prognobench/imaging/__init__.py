"""From an image file to the square of pixels that every model starts from, decoded once.

Decoding, DICOM, resizing, augmentation and the pixel cache; which images a cohort has is decided in
``datasets``.
"""
