"""Servers with the protocol of TensorFlow Serving: the development server and the gateway.

Imports `request_logs`, `export` and `_support`, never a key; `demo` and `cli` may import it.
"""
