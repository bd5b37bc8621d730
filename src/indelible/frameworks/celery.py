"""
Celery: takes the context of whoever publishes a task along to the worker that runs it.

It needs the extra ``indelible[celery]``. Whoever can reach the broker can write anything
into a message, so the actor that one names stands as asserted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from indelible.context import Context, Work, begun, current, from_message, to_message
from indelible.errors import CallerError, Malformed
from indelible.frameworks.web import given_service

try:
    from celery import signals
except ImportError as error:
    raise CallerError("Celery is not installed: pip install 'indelible[celery]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery, Task
    from celery.utils.dispatch import Signal

    from indelible.event import Service

HEADER = "indelible"
"""The header of a message that holds the context of its publisher."""

_BLOCK = "_indelible_block"


def install(app: Celery, *, service: Service | str = "celery") -> None:
    """
    Give every event recorded in a task of *app* the context of whoever published it.

    A task that another one publishes (a chain, a chord, a retry) has the same. A task that
    runs eagerly is in the context of its caller. A message without a context, or with one
    that cannot be read, names nobody. To install it again is to replace it.

    Args:
        service: The program that runs the tasks, or its name.

    Raises:
        InvalidEvent: That is no name.
    """
    worker = given_service(service)

    def begin(task: Task, **_: Any) -> None:
        if task.app == app:  # either may be a proxy
            request = task.request
            block = begun(Work(_context(request, worker)))
            block.__enter__()
            setattr(request, _BLOCK, block)

    def end(task: Task, **_: Any) -> None:
        if task.app == app:
            block = vars(task.request).pop(_BLOCK, None)
            if block is not None:
                block.__exit__(None, None, None)

    # Signals are of the whole process, and hold no more than weak references unless told to.
    _connect(signals.before_task_publish, _publish, HEADER)
    _connect(signals.task_prerun, begin, f"{HEADER}-{id(app)}")
    _connect(signals.task_postrun, end, f"{HEADER}-{id(app)}")


def _connect(signal: Signal, receiver: Callable[..., None], uid: str) -> None:
    """Connect *receiver* to *signal* in the place of the one before of the same *uid*."""
    signal.disconnect(dispatch_uid=uid)
    signal.connect(receiver, weak=False, dispatch_uid=uid)


def _publish(headers: dict[str, Any], **_: Any) -> None:
    # Always, since a retry hands on the headers of the message that it came with.
    headers[HEADER] = to_message(current())


def _context(request: Any, worker: Service | None) -> Context:  # noqa: ANN401 - Celery has no types
    if request.is_eager:
        return current()
    headers = request.headers
    text = headers.get(HEADER) if isinstance(headers, dict) else None
    try:
        found = from_message(text) if isinstance(text, str) else Context()
    except Malformed:
        found = Context()
    return msgspec.structs.replace(found, service=worker)
