"""Warm-up records: requests that TF Serving runs before a version takes traffic.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.child.probing import require
from tfcompress.core.arguments import integer

WARM_UP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# More than this a server refuses.
_MOST = 1000


def write_warm_up(
    path: Path,
    model_name: str,
    signature: str,
    batches: Sequence[Mapping[str, np.ndarray]],
) -> None:
    """Writes one Predict request for each batch.

    Args:
        path: the file.
        model_name: the name the model is served under.
        signature: the signature to call.
        batches: arrays by input name.

    Raises:
        ExportError: if tensorflow-serving-api is not installed.
        InvalidArgumentError: if there are too many.
    """
    require("tensorflow_serving", "serving")
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    integer(len(batches), "Bad number of warm-up requests.", 1, _MOST)
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in batches:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            for name, array in batch.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def read_warm_up(path: Path) -> list[Any]:
    """Returns the Predict requests of a warm-up file.

    Raises:
        ExportError: if tensorflow-serving-api is not installed.
    """
    require("tensorflow_serving", "serving")
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    return [log.predict_log.request for log in logs]
