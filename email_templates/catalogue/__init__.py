"""The closed catalogue of messages (E1): what is not here cannot be sent (P3.1e).

To add a message, write a class in one of the modules beside this file and a folder of its `name` in
`email_templates/messages/`, with `subject.txt`, `body.txt` and `body.html`. Nothing lists messages.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import msgspec

from email_templates.catalogue.message import Message


class UnknownMessage(LookupError):
    """No message of that name is in the catalogue."""


class BadContext(ValueError):
    """The data are not what the message's context class asks for."""


def find(name: str) -> type[Message]:
    """The message of that name; UnknownMessage if the catalogue has none."""
    try:
        return MESSAGES[name]
    except KeyError:
        raise UnknownMessage(f"The catalogue has no message {name!r}; it has {', '.join(MESSAGES)}.") from None


def read_context(name: str, data: Mapping[str, Any]) -> Message:
    """The typed context of an e-mail row's JSON; UnknownMessage or BadContext says what is wrong with it."""
    message = find(name)
    try:
        return msgspec.convert(data, message)
    except msgspec.ValidationError as error:
        raise BadContext(f"The data for the message {name!r} are not what it needs: {error}.") from error


def write_context(context: Message) -> dict[str, Any]:
    """The JSON that an e-mail row keeps; `read_context` reads it back."""
    data: dict[str, Any] = msgspec.to_builtins(context)
    return data


def _messages() -> Mapping[str, type[Message]]:
    found: dict[str, type[Message]] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(import_module(module.name)).values():
            # Where it is defined; elsewhere it may be imported.
            if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.name:
                if value is Message:
                    continue
                if value.name in found:
                    raise TypeError(f"Two messages of the catalogue are called {value.name!r}; rename one.")
                found[value.name] = value
    return MappingProxyType(found)


#: Every message by name: read from the classes, so there is no second list.
MESSAGES: Final = _messages()
