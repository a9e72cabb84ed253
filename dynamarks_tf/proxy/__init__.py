"""A proxy that stands before TensorFlow Serving: who asked, may he, and what was he answered.

Requests and answers pass through unchanged, over gRPC and REST. The proxy checks API keys or client certificates,
limits rates, and logs predictions with the client's name, which TensorFlow Serving cannot. No answer waits for the log.
Needs the extra `proxy`.
"""

from __future__ import annotations

from dynamarks_tf.errors import ServingError

try:
    import aiohttp
    import hpack
except ImportError as error:
    raise ServingError("The proxy needs aiohttp and hpack: pip install 'dynamarks_tf[proxy]'") from error

from dynamarks_tf.proxy.admission import Admission
from dynamarks_tf.proxy.api_keys import ApiKeys
from dynamarks_tf.proxy.proxy import Proxy
from dynamarks_tf.proxy.rate_limit import RateLimiter
from dynamarks_tf.proxy.tls import Tls

__all__ = ["Admission", "ApiKeys", "Proxy", "RateLimiter", "Tls"]

del aiohttp, hpack
