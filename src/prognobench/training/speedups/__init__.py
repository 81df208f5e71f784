"""What makes the loop fast on some hardware, behind one call each; its docstring says by how much.

Deleting any of them changes speed, and numbers by rounding alone; ``train.speedups=false`` switches
all of them off.
"""
