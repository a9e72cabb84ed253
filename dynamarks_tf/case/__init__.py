"""One test as a record that others can recompute: plan, transcript, assessment, result, bundle. NumPy only.

Imports `evidence`, `watermark` and `keys`; `recheck`, `report`, `verification` and what follows may import it.
"""
