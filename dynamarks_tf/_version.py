"""The version of the package. Imports nothing, so that `setup.py` can read it."""

__version__ = "0.2.0"
