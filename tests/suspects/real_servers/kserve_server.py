"""KServe's Python server for FOLDER/model.joblib, as `clf`: `kserve_server.py FOLDER PORT`.

It answers as KServe's own runtime for scikit-learn does with PREDICT_PROBA, which is not among the published packages.
"""

import sys
from pathlib import Path
from typing import Any

import joblib
import kserve
from kserve import model_server
from kserve.utils.utils import get_predict_input, get_predict_response


class Classifier(kserve.Model):
    def __init__(self, path: Path) -> None:
        super().__init__("clf")
        self.classifier = joblib.load(path)
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        answers = self.classifier.predict_proba(get_predict_input(payload))
        return get_predict_response(payload, answers, self.name)


class LoopbackServer(model_server.RESTServer):  # KServe's would be open to the network
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.config.host = "127.0.0.1"


if __name__ == "__main__":
    model_server.RESTServer = LoopbackServer
    server = kserve.ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1)
    server.start([Classifier(Path(sys.argv[1]) / "model.joblib")])
