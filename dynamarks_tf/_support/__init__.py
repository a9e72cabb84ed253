"""Small helpers that know nothing of marks: files, digests, formats, progress.

Every folder may import it; it imports `errors` alone.
"""
