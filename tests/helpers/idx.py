"""Files in the IDX format of MNIST."""

import gzip
import struct

import numpy as np


def write_idx(path, array, compress=True):
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)
