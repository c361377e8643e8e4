"""Messages of servers' configurations that no package of the tests has.

Fields and numbers of TF Serving's `session_bundle_config.proto` and
`monitoring_config.proto`, and those of Triton's `model_config.proto` that we write.
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


_DATA_TYPES = (
    *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16"),
    *("INT32", "INT64", "FP16", "FP32", "FP64", "STRING", "BF16"),
)


def _model_config():
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/serving/model_config.proto", package="inference", syntax="proto3"
    )
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES):
        types.value.add(name=f"TYPE_{name}", number=number)

    def message(title, /, **fields):
        made = file.message_type.add(name=title)
        for field, (number, kind, repeated, type_name) in fields.items():
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            made.field.add(
                name=field, number=number, type=kind, type_name=type_name, label=label
            )

    def text(number):
        return number, _FIELD.TYPE_STRING, False, None

    def part(number, name, repeated=False):
        return number, _FIELD.TYPE_MESSAGE, repeated, f".inference.{name}"

    sizes = _FIELD.TYPE_INT64, True, None
    data_type = _FIELD.TYPE_ENUM, False, ".inference.DataType"
    message("ModelTensorReshape", shape=(1, *sizes))
    for name, dims, reshape in (("ModelInput", 4, 5), ("ModelOutput", 3, 5)):
        message(
            name,
            name=text(1),
            data_type=(2, *data_type),
            dims=(dims, *sizes),
            reshape=part(reshape, "ModelTensorReshape"),
        )
    delay = 2, _FIELD.TYPE_UINT64, False, None
    message("ModelDynamicBatching", max_queue_delay_microseconds=delay)
    message(
        "ModelConfig",
        name=text(1),
        max_batch_size=(4, _FIELD.TYPE_INT32, False, None),
        input=part(5, "ModelInput", True),
        output=part(6, "ModelOutput", True),
        default_model_filename=text(8),
        dynamic_batching=part(11, "ModelDynamicBatching"),
        backend=text(17),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = pool.FindMessageTypeByName("inference.ModelConfig")
    return message_factory.GetMessageClass(found)


ModelConfig = _model_config()
