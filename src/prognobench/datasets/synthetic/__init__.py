"""The generator of synthetic chest images: patients, anatomy and device. No clinical data.

The cohort that is made of them is ``datasets/embedded.py``.
"""
