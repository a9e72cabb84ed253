"""A free port that somebody else opens before Envoy does."""

import contextlib
import dataclasses
import socket

from dynamarks_tf.serving.gateway import launcher
from dynamarks_tf.serving.gateway.launcher import Gateway
from dynamarks_tf.serving.gateway.settings import Settings


def test_another_port_is_tried(tmp_path, monkeypatch):
    chosen = launcher._with_ports
    tries = []
    with contextlib.ExitStack() as stack:

        def taken_at_first(settings):
            found = chosen(settings)
            tries.append(found.grpc_port)
            if len(tries) == 1:
                other = stack.enter_context(socket.socket())
                other.bind((found.host, found.grpc_port))
                other.listen()
            return found

        monkeypatch.setattr(launcher, "_with_ports", taken_at_first)
        settings = Settings(folder=tmp_path, upstream="127.0.0.1:9", grpc_port=0)
        with Gateway(dataclasses.replace(settings, ops_port=None), threads=1) as gateway:
            assert gateway.grpc_address.endswith(f":{tries[-1]}")
            assert len(tries) == 2
            socket.create_connection((gateway.settings.host, tries[-1]), 5).close()
