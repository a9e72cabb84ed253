"""The operators that a TensorFlow Lite file needs."""


def operators(content):
    """Names of the operators of a file: `CONV_2D`, ...; `CUSTOM` for any that is not built in."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    return {flatbuffer_utils.opcode_to_name(model, index) for index in range(len(model.operatorCodes))}
