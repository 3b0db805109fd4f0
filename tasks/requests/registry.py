"""The handlers of requests: each registers itself beside its function.

    @handles(StatementsSend)
    def send_again(session: Session, account_id: UUID, request_id: UUID, ports: Ports) -> None: ...

A handler runs in the transaction that sets the request to done. It writes rows and does nothing else, so doing it twice
is impossible: the second time there is no request to finish.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from sqlalchemy.orm import Session

from tasks.client.requests import Request
from tasks.engine.registry import import_every_module
from tasks.failures import Permanent
from tasks.ports.context import Ports

#: Of a request that names an active account: `handler(session, account_id, request_id, ports)`.
AccountHandler = Callable[[Session, UUID, UUID, Ports], None]
#: Of a request that names a message, an event or a termination: `handler(session, request_id, ports)`.
Handler = Callable[[Session, UUID, Ports], None]

_handlers: dict[str, Callable[[Session, UUID | None, UUID, Ports], None]] = {}


def handles(kind: type[Request]) -> Callable[[AccountHandler], AccountHandler]:
    """Register the decorated function for requests of `kind`, which names an active account.

    Raises ValueError if the kind has a handler already.
    """

    def register(handler: AccountHandler) -> AccountHandler:
        def with_account(session: Session, account_id: UUID | None, request_id: UUID, ports: Ports) -> None:
            if account_id is None:
                raise Permanent(f'The request "{kind.kind}" names no account: send it again with one.')
            handler(session, account_id, request_id, ports)

        _register(kind, with_account)
        return handler

    return register


def handles_without_account(kind: type[Request]) -> Callable[[Handler], Handler]:
    """Register the decorated function for requests of `kind`, which names no active account.

    Raises ValueError if the kind has a handler already.
    """

    def register(handler: Handler) -> Handler:
        _register(kind, lambda session, _account_id, request_id, ports: handler(session, request_id, ports))
        return handler

    return register


def _register(kind: type[Request], handler: Callable[[Session, UUID | None, UUID, Ports], None]) -> None:
    if kind.kind in _handlers:
        raise ValueError(f"The request {kind.kind} has two handlers: remove one of them.")
    _handlers[kind.kind] = handler


def handled_kinds() -> set[str]:
    """Return the kinds that this version handles."""
    import_every_module()
    return set(_handlers)


def handler_of(kind: str) -> Callable[[Session, UUID | None, UUID, Ports], None]:
    """Return the handler of a kind. Raises Permanent if this version has none."""
    if kind not in _handlers:
        import_every_module()
    try:
        return _handlers[kind]
    except KeyError:
        raise Permanent(f'This version has no handler for "{kind}": deploy one that has, then retry.') from None
