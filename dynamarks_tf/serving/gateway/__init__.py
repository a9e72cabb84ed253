"""A proxy in front of TensorFlow Serving: it identifies clients, admits or refuses them, and logs their predictions.

Imports `serving.protocol` and `request_logs`, never a key; `cli` may import it.

Requests and answers pass through unchanged, over gRPC and REST. The proxy checks API keys or client certificates, and
limits rates. It logs predictions with the client's name, which TensorFlow Serving cannot. No answer waits for the log.
Needs the extra `proxy`.
"""

from __future__ import annotations

from dynamarks_tf.errors import ServingError

try:
    import aiohttp
    import hpack
except ImportError as error:
    raise ServingError("The proxy needs aiohttp and hpack: pip install 'dynamarks_tf[proxy]'") from error

from dynamarks_tf.serving.gateway.admission import Admission
from dynamarks_tf.serving.gateway.api_keys import ApiKeys
from dynamarks_tf.serving.gateway.proxy import Proxy
from dynamarks_tf.serving.gateway.rate_limit import RateLimiter
from dynamarks_tf.serving.gateway.tls import Tls

__all__ = ["Admission", "ApiKeys", "Proxy", "RateLimiter", "Tls"]

del aiohttp, hpack
