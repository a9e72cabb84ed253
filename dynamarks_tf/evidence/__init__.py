"""From answers to a p-value: residuals without signs, then signs against residuals. NumPy only.

Imports `watermark`, never a key: the signs come from the caller. `case` and everything after it may import it.
"""
