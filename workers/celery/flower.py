"""Flower never runs without a password (W12)."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

from workers.settings.settings import SettingsError, settings


def protect(environment: MutableMapping[str, str]) -> None:
    """Give Flower its address and its users, by the variables that it reads; stop where there is no password."""
    try:
        chosen = settings()
    except SettingsError as error:
        sys.exit(f"tenure: {error}")
    if not any(name in environment for name in ("FLOWER_BASIC_AUTH", "FLOWER_AUTH_PROVIDER", "FLOWER_AUTH")):
        if not (chosen.flower_user and chosen.flower_password):
            sys.exit(
                "tenure: Flower shows how the work goes, so it needs a password: "
                "set TENURE_FLOWER_USER and TENURE_FLOWER_PASSWORD, or Flower's own FLOWER_AUTH_PROVIDER."
            )
        environment["FLOWER_BASIC_AUTH"] = f"{chosen.flower_user}:{chosen.flower_password}"
    environment.setdefault("FLOWER_ADDRESS", chosen.flower_address)
    environment.setdefault("FLOWER_PORT", str(chosen.flower_port))
    environment.setdefault("FLOWER_PERSISTENT", "false")
