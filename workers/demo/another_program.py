"""A program of someone else's: it knows Celery and the broker's address, and nothing of Tenure.

It reads `{"broker": ..., "messages": [[name, kwargs], ...]}` and prints the ids of what it sent.
"""

import json
import sys

from celery import Celery


def main() -> None:
    asked = json.load(sys.stdin)
    app = Celery(broker=asked["broker"])
    ids = [app.send_task(name, kwargs=kwargs).id for name, kwargs in asked["messages"]]
    ours = {"models", "tasks", "workers", "scheduler", "email_templates"} & set(sys.modules)
    if ours:
        sys.exit(f"this program was to know nothing of Tenure, and has imported {', '.join(sorted(ours))}")
    json.dump(ids, sys.stdout)


main()
