"""The Celery app: `celery -A workers.app worker`, `... beat` and `... flower` as anywhere.

Importing it connects to nothing; configuration is read when Celery first asks for it.
"""

from __future__ import annotations

import os
import sys

from celery import Celery

from workers.celery import lifecycle
from workers.settings.settings import settings
from workers.wiring import bootstrap

app = Celery("tenure")
app.config_from_object("workers.celery.config")
lifecycle.connect(
    ports=lambda: bootstrap.ports(settings(), app),
    session_stores=lambda database: bootstrap.session_stores(settings(), database),
)

if "flower" in sys.argv:
    from workers.celery.flower import protect

    protect(os.environ)
