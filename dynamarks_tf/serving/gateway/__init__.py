"""Envoy in front of TensorFlow Serving: it identifies clients, limits them, and sends copies of predictions to a log.

Imports `serving.protocol`, `request_logs` and `_support`, never a key; `cli` may import it.

`configuration` renders what Envoy is told, `capture.lua` keeps the copies, `collector` writes them to the log,
`launcher` runs both, `clients` makes and revokes tokens. Needs the extra `gateway`; TensorFlow is not loaded.
"""
