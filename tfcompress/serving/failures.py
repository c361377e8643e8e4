"""The errors of a model server, in our words."""

from tfcompress.core.errors import ServingError


def refused(address: str, reason: str) -> ServingError:
    return ServingError(
        "The server refused the request.",
        received=f"{address}: {reason}",
        expected="a model, version, signature and arrays that the server knows",
        fix="compare with `client.metadata()` and `client.status()`",
    )


def unreachable(address: str, reason: str) -> ServingError:
    return ServingError(
        "The server cannot be reached, or gave no answer in time.",
        received=f"{address}: {reason}",
        expected="a TF Serving compatible server",
        fix="check address, port (REST 8501, gRPC 8500) and `timeout`",
    )


def malformed(address: str, reason: str) -> ServingError:
    return ServingError(
        "The server's answer is not one of TF Serving's API.",
        received=f"{address}: {reason}",
        expected="an answer as TF Serving gives it",
        fix="check that the address is the model server's, not that of another service",
    )
