"""A small server with TF Serving's API, for tests: REST and gRPC on loopback.

It serves the latest versions of the models in a `models.config`, parsed by the official
proto, and answers through the official messages. It replays warm-up records when it
loads a version, as TF Serving does.
"""

import base64
import json
import re
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tfcompress.exporters.saved_model.warmup import WARM_UP_FILE, read_warm_up


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Version:
    """One loaded version."""

    def __init__(self, path):
        self.number = int(path.name)
        self.module = tf.saved_model.load(str(path))
        stored = saved_model_pb2.SavedModel.FromString(
            (path / "saved_model.pb").read_bytes()
        )
        definitions = stored.meta_graphs[0].signature_def
        self.definitions = {
            name: value for name, value in definitions.items() if "__saved" not in name
        }
        self.warmed_up = 0
        if (path / WARM_UP_FILE).exists():
            for request in read_warm_up(path / WARM_UP_FILE):
                inputs = {n: tf.make_ndarray(t) for n, t in request.inputs.items()}
                self.run(request.model_spec.signature_name, inputs)
                self.warmed_up += 1

    def run(self, signature, inputs):
        signature = signature or "serving_default"
        if signature not in self.definitions:
            raise Refused(
                "NOT_FOUND", f'Serving signature name: "{signature}" not found'
            )
        wanted = self.definitions[signature].inputs
        if sorted(wanted) != sorted(inputs):
            raise Refused(
                "INVALID_ARGUMENT",
                f"input size does not match signature: {sorted(inputs)} "
                f"expected {sorted(wanted)}",
            )
        for name, array in inputs.items():
            # TensorFlow's kernels may abort the process on tensors of another rank.
            sizes = [axis.size for axis in wanted[name].tensor_shape.dim]
            fits = len(sizes) == np.ndim(array) and all(
                want in (-1, got) for want, got in zip(sizes, np.shape(array))
            )
            if not fits:
                message = f"{name}: shape {np.shape(array)}, expected {sizes}"
                raise Refused("INVALID_ARGUMENT", message)
        try:
            tensors = {
                name: tf.constant(array, tf.dtypes.as_dtype(wanted[name].dtype))
                for name, array in inputs.items()
            }
            found = self.module.signatures[signature](**tensors)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise Refused("INVALID_ARGUMENT", " ".join(str(error).split())) from error
        return {name: value.numpy() for name, value in found.items()}


class Models:
    """The models of a models.config; only the latest version of each is served."""

    def __init__(self, config, mounted_at, base):
        text = Path(config).read_text()
        parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        self.bases = {
            entry.name: Path(str(entry.base_path).replace(mounted_at, str(base), 1))
            for entry in parsed.model_config_list.config
        }
        self.versions = {}
        self.poll()

    def poll(self):
        for name, base in self.bases.items():
            latest = max(int(e.name) for e in base.iterdir() if e.name.isdigit())
            known = self.versions.setdefault(name, {})
            if latest not in known:
                known[latest] = Version(base / str(latest))
            for old in [number for number in known if number != latest]:
                known[old] = None  # unloaded: its state is END

    def find(self, name, number=None):
        if name not in self.versions:
            raise Refused("NOT_FOUND", f"Servable not found for request: {name}")
        known = self.versions[name]
        number = number or max(known)
        if known.get(number) is None:
            raise Refused(
                "NOT_FOUND", f"Servable not found: Specific({name}, {number})"
            )
        return known[number]

    def states(self, name, number=None):
        if name not in self.versions:
            raise Refused("NOT_FOUND", f"Could not find any versions of model {name}")
        state = get_model_status_pb2.ModelVersionStatus
        response = get_model_status_pb2.GetModelStatusResponse()
        for found, version in sorted(self.versions[name].items()):
            if number in (None, 0, found):
                kind = state.END if version is None else state.AVAILABLE
                response.model_version_status.add(version=found, state=kind)
        return response


def answering(method):
    def answer(self, request, context):
        try:
            return method(self, request)
        except Refused as refused:
            context.abort(grpc.StatusCode[refused.code], str(refused))

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models):
        self.models = models

    @answering
    def Predict(self, request):
        spec = request.model_spec
        version = self.models.find(spec.name, spec.version.value)
        inputs = {name: tf.make_ndarray(t) for name, t in request.inputs.items()}
        outputs = version.run(spec.signature_name, inputs)
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(spec)
        response.model_spec.version.value = version.number
        for name, array in outputs.items():
            if not request.output_filter or name in request.output_filter:
                response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    @answering
    def GetModelMetadata(self, request):
        version = self.models.find(
            request.model_spec.name, request.model_spec.version.value
        )
        if list(request.metadata_field) != ["signature_def"]:
            raise Refused("INVALID_ARGUMENT", "Metadata field is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version.number
        response.metadata["signature_def"].Pack(signature_map(version))
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models):
        self.models = models

    @answering
    def GetModelStatus(self, request):
        spec = request.model_spec
        return self.models.states(spec.name, spec.version.value)


def signature_map(version):
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in version.definitions.items():
        found.signature_def[name].CopyFrom(definition)
    return found


_PATH = re.compile(
    r"/v1/models/(?P<model>[^/:]+)(/versions/(?P<version>\d+))?"
    r"(?P<rest>/metadata|:predict)?"
)


class RESTHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.answer(self.rfile.read(length))

    def answer(self, body):
        try:
            code, content = 200, self.content(body)
        except Refused as refused:
            code = 404 if refused.code == "NOT_FOUND" else 400
            content = {"error": str(refused)}
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def content(self, body):
        match = _PATH.fullmatch(self.path)
        if match is None:
            raise Refused("INVALID_ARGUMENT", f"Malformed request: {self.path}")
        models = self.server.models
        name, number = match["model"], int(match["version"] or 0)
        if match["rest"] is None:
            return json_format.MessageToDict(
                models.states(name, number),
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
        version = models.find(name, number)
        if match["rest"] == "/metadata":
            definitions = json_format.MessageToDict(
                signature_map(version), preserving_proto_field_name=True
            )
            spec = {"name": name, "signature_name": "", "version": str(version.number)}
            return {"model_spec": spec, "metadata": {"signature_def": definitions}}
        return predict(version, parsed(body))

    def log_message(self, *_):
        pass


def parsed(body):
    try:
        request = json.loads(body)
    except ValueError as error:
        raise Refused("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    if ("instances" in request) == ("inputs" in request):
        raise Refused("INVALID_ARGUMENT", "Missing 'inputs' or 'instances' key")
    return request


def predict(version, request):
    """The two forms of the REST API: row by row, or column by column."""
    signature = request.get("signature_name", "serving_default")
    definition = version.definitions.get(signature)
    if definition is None:
        raise Refused("INVALID_ARGUMENT", f"signature {signature} not found")
    names = list(definition.inputs)
    rows = "instances" in request
    given = request["instances" if rows else "inputs"]
    named = (
        isinstance(given[0], dict) and "b64" not in given[0]
        if rows
        else (isinstance(given, dict))
    )
    if rows and named:
        given = {name: [row[name] for row in given] for name in given[0]}
    if not named:
        if len(names) != 1:
            raise Refused("INVALID_ARGUMENT", f"instances must be objects of {names}")
        given = {names[0]: given}
    inputs = {name: np.asarray(decoded(value)) for name, value in given.items()}
    outputs = {
        name: encoded(value, name)
        for name, value in version.run(signature, inputs).items()
    }
    one = next(iter(outputs.values())) if len(outputs) == 1 else None
    if not rows:
        return {"outputs": outputs if one is None else one}
    if one is not None:
        return {"predictions": one}
    columns = zip(*outputs.values())
    return {"predictions": [dict(zip(outputs, row)) for row in columns]}


def decoded(value):
    if isinstance(value, list):
        return [decoded(entry) for entry in value]
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return value


def encoded(array, name):
    if array.dtype != object:
        return array.tolist()
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(v).decode()} for v in array]
    return np.char.decode(array.astype("S"), "utf-8").tolist()


class ModelServer:
    """Both services in threads of this process, on free ports."""

    def __init__(self, config, base, mounted_at="/models", workers=8):
        self.models = Models(config, mounted_at, base)
        self.grpc = grpc.server(futures.ThreadPoolExecutor(workers))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(self.models), self.grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self.models), self.grpc
        )
        port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.grpc_url = f"grpc://127.0.0.1:{port}"
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), RESTHandler)
        self.http.daemon_threads = True
        self.http.models = self.models
        self.rest_url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        self.grpc.start()
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.grpc.stop(None).wait()
        self.http.shutdown()
        self.http.server_close()
