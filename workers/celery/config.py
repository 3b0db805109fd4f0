"""Celery's configuration, read when the app first needs it, and the reason for each line that is not obvious."""

from __future__ import annotations

import ssl
import sys
from datetime import timedelta
from typing import Any

from kombu import Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES

from scheduler.timetable import TIMETABLE
from tasks.engine.registry import module_names
from workers.celery.routing import INBOUND, QUEUES, ROUTES
from workers.settings.settings import SettingsError, settings

try:
    _settings = settings()
except SettingsError as error:
    sys.exit(f"tenure: {error}")

broker_url = _settings.broker_url
TRANSPORT_ALIASES.update(redis="workers.celery.transport:Transport", rediss="workers.celery.transport:Transport")
# kombu checks nothing on a rediss:// link unless it is told to.
broker_use_ssl: Any = {"ssl_cert_reqs": ssl.CERT_REQUIRED} if broker_url.startswith("rediss://") else None
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_transport_options = {
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 15,
    # Only messages from outside are acknowledged late, and those are stored within seconds: one whose worker died
    # comes back after this many seconds, and kombu looks for such every so many.
    "visibility_timeout": 60,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "queue_order_strategy": "priority",
    # A client's `priority` chooses one of the lists `celery`, `celery\x06\x161`, … `celery\x06\x169`: all are read.
    "priority_steps": list(range(10)),
}

accept_content = ["json"]
task_serializer = "json"
event_serializer = "json"
# Results are rows. What a task returns goes into its event alone, for Flower.
task_ignore_result = True
result_backend = None
worker_send_task_events = True
task_send_sent_event = False
# Whoever may write to the broker could shut workers down by it.
worker_enable_remote_control = False

#: Jobs, handlers, steps and checks register themselves when their module is imported.
imports = module_names()
task_default_queue = INBOUND
task_queues = [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QUEUES]
task_routes = {task: {"queue": queue} for task, queue in ROUTES.items()}
task_create_missing_queues = False

task_soft_time_limit = _settings.soft_time_limit
task_time_limit = _settings.time_limit
worker_prefetch_multiplier = 1
worker_max_tasks_per_child = 2_000
worker_max_memory_per_child = 400_000  # KiB
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_prefetch_count_reduction = False
worker_soft_shutdown_timeout = 20.0
worker_enable_soft_shutdown_on_idle = False
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_consumer = "workers.celery.consumer:Consumer"

enable_utc = True
timezone = "UTC"
beat_scheduler = "workers.celery.beat:Ticks"
beat_max_loop_interval = 1
beat_schedule = {
    entry.task: {"task": entry.task, "schedule": timedelta(seconds=entry.every.total_seconds())} for entry in TIMETABLE
}
