"""Messages of TF Serving's configuration that its Python package leaves out.

Fields and numbers of `session_bundle_config.proto` and `monitoring_config.proto`.
"""

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)

_FIELD = descriptor_pb2.FieldDescriptorProto
_WRAPPED = ".google.protobuf.Int64Value"


def _messages():
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/serving/configuration.proto",
        package="tests.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, (field, kind, type_name) in enumerate(fields, 1):
            made.field.add(
                name=field,
                number=number,
                type=kind,
                type_name=type_name,
                label=_FIELD.LABEL_OPTIONAL,
            )

    numbers = (
        *("max_batch_size", "batch_timeout_micros"),
        *("max_enqueued_batches", "num_batch_threads"),
    )
    message(
        "BatchingParameters",
        *((name, _FIELD.TYPE_MESSAGE, _WRAPPED) for name in numbers),
    )
    message(
        "PrometheusConfig",
        ("enable", _FIELD.TYPE_BOOL, None),
        ("path", _FIELD.TYPE_STRING, None),
    )
    nested = ".tests.serving.PrometheusConfig"
    message("MonitoringConfig", ("prometheus_config", _FIELD.TYPE_MESSAGE, nested))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return (
        message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"tests.serving.{name}")
        )
        for name in ("BatchingParameters", "MonitoringConfig")
    )


BatchingParameters, MonitoringConfig = _messages()
