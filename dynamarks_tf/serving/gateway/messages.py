"""The few messages that the collector reads and writes, made when it starts.

The generated classes of TensorFlow Serving load TensorFlow, and those of Envoy are another dependency. Here stand the
fields in use alone; protocol buffers skip the others. Text is declared as bytes, so that no name which a client chose
can make a message unreadable. An entry of a map is a message with a key and a value.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_KINDS = descriptor_pb2.FieldDescriptorProto
_TYPES = {"int32": _KINDS.TYPE_INT32, "int64": _KINDS.TYPE_INT64, "bytes": _KINDS.TYPE_BYTES}
_MESSAGES = {
    # What Envoy sends: envoy.service.accesslog.v3
    "Time": "seconds=1:int64 nanos=2:int32",
    "Value": "string_value=3:bytes",
    "ValueEntry": "key=1:bytes value=2:Value",
    "Struct": "fields=1:ValueEntry*",
    "StructEntry": "key=1:bytes value=2:Struct",
    "Metadata": "filter_metadata=1:StructEntry*",
    "Common": "start_time=5:Time metadata=17:Metadata duration=23:Time",
    "Entry": "common_properties=1:Common",
    "HttpLogs": "log_entry=1:Entry*",
    "StreamAccessLogsMessage": "http_logs=2:HttpLogs",
    # What the log holds: tensorflow.serving
    "Int64Value": "value=1:int64",
    "ModelSpec": "name=1:bytes version=2:Int64Value signature_name=3:bytes version_label=4:bytes",
    "Dim": "size=1:int64",
    "Shape": "dim=2:Dim*",
    "Tensor": "dtype=1:int32 tensor_shape=2:Shape tensor_content=4:bytes string_val=8:bytes*",
    "TensorEntry": "key=1:bytes value=2:Tensor",
    "PredictRequest": "model_spec=1:ModelSpec inputs=2:TensorEntry*",
    "PredictResponse": "outputs=1:TensorEntry* model_spec=2:ModelSpec",
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="collector.proto", package="collector", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields.split():
            left, kind = field.split(":")
            label = _KINDS.LABEL_REPEATED if kind.endswith("*") else _KINDS.LABEL_OPTIONAL
            added = message.field.add(name=left.split("=")[0], number=int(left.split("=")[1]), label=label)
            kind = kind.rstrip("*")
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type, added.type_name = _KINDS.TYPE_MESSAGE, f".collector.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"collector.{name}")) for name in _MESSAGES
    }


_CLASSES = _build()

ModelSpec = _CLASSES["ModelSpec"]
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
StreamAccessLogsMessage = _CLASSES["StreamAccessLogsMessage"]
Tensor = _CLASSES["Tensor"]
