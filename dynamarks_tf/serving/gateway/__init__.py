"""Envoy in front of TensorFlow Serving: it identifies clients, limits them, and sends copies of predictions to a log.

Imports `serving.protocol`, `request_logs`, `_support` and `foreign_text`, never a key; `cli` may import it.

`settings` says what a gateway does, `configuration` tells Envoy by the template `envoy.yaml.j2`, `capture.lua` keeps
copies, `collector` writes them to the log, `launcher` runs both, `clients` makes and revokes tokens. Needs the extra
`gateway`; TensorFlow is not loaded.
"""
