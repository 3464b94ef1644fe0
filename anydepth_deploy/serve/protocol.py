"""Triton's model configurations as protobuf messages: the one place that imports them.

The messages come with ``tritonclient``, so that what is written has the fields of a real server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydepth_deploy.errors import BundleError, missing_extra

__all__ = ["PREFIX", "datatype", "messages", "parse", "to_text"]

PREFIX = "TYPE_"
"""Of the names of data types in configurations: ``TYPE_FP32``."""


def messages() -> Any:
    """The module with the message classes: ``ModelConfig`` and its enumerations.

    Raises :class:`MissingExtraError` where ``tritonclient`` or its gRPC half is not installed.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except (ModuleNotFoundError, RuntimeError) as error:
        # Without its gRPC half, tritonclient raises RuntimeError because of the module it lacks.
        cause = error if isinstance(error, ModuleNotFoundError) else error.__cause__
        if isinstance(cause, ModuleNotFoundError):
            raise missing_extra(cause, "a Triton repository", extra="triton") or error from None
        raise
    return model_config_pb2


def to_text(config: Any) -> str:
    """A message in the text form of ``config.pbtxt``."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config, as_utf8=True))


def parse(path: Path) -> Any:
    """The ``ModelConfig`` in a file.

    Raises :class:`BundleError` that says where in the text the first mistake is, or why it cannot
    be read.
    """
    config = messages().ModelConfig()
    from google.protobuf import text_format

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), config)
    except text_format.ParseError as error:
        line = " ".join(str(error).split())
        raise BundleError(f"is no model configuration ({line}): write it again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"cannot be read: {error}") from None


def datatype(number: int) -> str:
    """The name of a data type, without its prefix: ``FP32``; ``INVALID`` where none is given."""
    return str(messages().DataType.Name(number)).removeprefix(PREFIX)
