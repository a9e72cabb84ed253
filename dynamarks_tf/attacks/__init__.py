"""Attacks on a served model, named as in the literature: extraction, post-processing, removal.

Imports `export`, `suspects` and `_support`, never a key; `audit` and `demo` may import it.
"""
