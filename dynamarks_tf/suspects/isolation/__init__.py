"""A process of its own for each model file: no secrets, limits, a deadline, no network, a view of its own files only.

May import `errors`. `launcher` is this process's side, `child` the other one; `frames` is what goes between them.
"""
