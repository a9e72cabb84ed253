"""`verify`: where key, owner model, suspect and queries meet.

Imports `case`, `evidence`, `suspects` and `request_logs`; `audit`, `demo` and `cli` may import it.
"""
