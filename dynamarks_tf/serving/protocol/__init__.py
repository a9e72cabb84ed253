"""The shared parts of TensorFlow Serving's protocol: status codes, ports, tensors as protobuf and as JSON.

Imports `request_logs`; the other folders of `serving` may import it.
"""
