"""PyTorch modules and scikit-learn classifiers that strategies add to a backbone or fit.

They are apart from the builders, so that listing the strategies imports neither library.
"""
