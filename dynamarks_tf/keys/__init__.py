"""The owner's secret key and the published commitment to it.

Imports `_support`. Folders that must not see the secret never import it.
"""
