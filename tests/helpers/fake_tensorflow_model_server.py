"""Replaces `tensorflow_model_server` in tests: takes its flags and answers GetModelStatus, without TensorFlow."""

import json
import os
import socket
import sys
import time
from concurrent import futures
from pathlib import Path

import grpc

flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
mode = os.environ.get("FAKE_MODE", "")
Path(os.environ["FAKE_CALL"]).write_text(json.dumps({"pid": os.getpid(), "flags": flags}))
print("Building single TensorFlow model file config", flush=True)
if mode == "fails":
    print("Failed to start server. Error: Unknown: 1 servable(s) did not become available", flush=True)
    sys.exit(255)
if mode == "hangs":
    time.sleep(600)

LOADING, AVAILABLE = 20, 30
loaded_at = time.monotonic() + 0.5


def model_status(request, context):
    """GetModelStatusResponse{model_version_status{version: 10, state: ...}}, already serialized."""
    assert flags["model_name"].encode() in request
    state = AVAILABLE if time.monotonic() > loaded_at else LOADING
    return bytes([0x0A, 4, 0x08, 10, 0x10, state])


handlers = {"GetModelStatus": grpc.unary_unary_rpc_method_handler(model_status)}
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", handlers)])
server.add_insecure_port(f"unix:{flags['grpc_socket_path']}")
if flags["port"] != "0":
    server.add_insecure_port(f"0.0.0.0:{flags['port']}")
server.start()
if flags["rest_api_port"] != "0" and mode != "no_rest":
    rest = socket.create_server(("", int(flags["rest_api_port"])))
server.wait_for_termination(None if mode != "dies" else 1.5)
