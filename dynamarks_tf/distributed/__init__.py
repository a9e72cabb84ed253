"""Log reduction on many machines: a thin shell around `verification.reducing`, one module per engine.

Imports `verification`, `request_logs` and `watermark`; `cli` may import it. `worker` and `kit`, which run on the
cluster, never reach the key.
"""
