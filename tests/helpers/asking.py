"""Asks a proxy one prediction, as clients with and without credentials do."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import requests
from tensorflow_serving.apis import prediction_service_pb2_grpc

from dynamarks_tf.serving.gateway import Proxy

ROWS = [[0.1, 0.2, 0.3, 0.4]]


def over_rest(proxy: Proxy, headers: dict[str, str] | None = None, **options: Any) -> requests.Response:
    url = f"{proxy.rest_url}/v1/models/m:predict"
    return requests.post(url, json={"instances": ROWS}, headers=headers, timeout=30, **options)


def over_grpc(proxy: Proxy, request: Any, *metadata: tuple[str, str], credentials: Any = None) -> grpc.StatusCode:
    address = proxy.grpc_address
    make = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    with make as channel:
        try:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
