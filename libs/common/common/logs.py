"""JSON log lines on standard error, each with the id of its request."""

import logging
import re
import sys
from typing import Any

import structlog

from common.context import current

SECRET = re.compile(r"lmg_(?:live|socket)_[\w-]+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def configure(service: str, level: str = "INFO") -> None:
    """Render all log lines, also those of libraries, as JSON."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Local variables stay out: they hold passwords and keys.
                structlog.processors.ExceptionRenderer(
                    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
                ),
                lambda _logger, _method, event: {"service": service, **event},
                structlog.processors.JSONRenderer(default=str),
                _hide_secrets,
            ],
        )
    )
    # Their lines hold URLs, and those of files in storage are signed.
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _add_request(_logger: Any, _method: str, event: Any) -> Any:
    context = current.get()
    if context.request_id:
        event["requestId"] = context.request_id
    # Before its first span a trace has no id.
    if trace_id := context.traceparent.partition("-")[2].partition("-")[0]:
        event["traceId"] = trace_id
    if context.account:
        event["account"] = context.account
    return event


def _hide_secrets(_logger: Any, _method: str, line: Any) -> Any:
    """Mask API keys, and passwords in URLs, in a log line, whichever package wrote it."""
    return SECRET.sub("[hidden]", line)
