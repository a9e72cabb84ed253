"""Small helpers that have nothing to do with marks: files, digests, formats, progress.

Every folder may import it; it imports `errors` alone.
"""
