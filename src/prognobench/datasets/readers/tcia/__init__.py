"""Collections of The Cancer Imaging Archive: trees of DICOM series beside a table of outcomes.

What is read here is the layout and the header of files; their pixels are decoded in ``imaging``.
"""
