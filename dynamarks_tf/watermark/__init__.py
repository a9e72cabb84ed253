"""The mark: settings, tables, the formula and the Keras layer.

Imports `keys` and `_support`; `evidence` and everything after it may import it.
"""
