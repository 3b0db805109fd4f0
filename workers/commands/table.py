"""The table of commands: what `tenure --help` lists, and the module in which each command is declared."""

from __future__ import annotations

from collections.abc import Mapping

ABOUT = "Tenure does the background work that a privacy policy promises: statements, mail, session sweeps."

#: Of each group and top-level command: its module, and the first line of its help. Its docstring adds to that line.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "certificate": ("workers.commands.certificate", "List, show, export and verify certificates of erasure."),
    "datamap": ("workers.commands.datamap", "Propose, check and fence the map of customers' data."),
    "demo": ("workers.commands.processes", "Run an example company on this machine and check the result."),
    "disclose": ("workers.commands.disclose", "Ask for, approve and make disclosures that a law requires."),
    "doctor": ("workers.observe.doctor", "Check every server that Tenure needs, and say how to fix it."),
    "down": ("workers.commands.processes", "Stop the local stack that `tenure up` started."),
    "download-page": ("workers.commands.processes", "Serve the page where customers download their archive."),
    "export": ("workers.commands.export", "Show and verify archives of customers' data; reissue links."),
    "health": ("workers.observe.health", "Check that the worker, Beat or the relay gets due work done."),
    "hold": ("workers.commands.hold", "Place, release and list legal holds."),
    "invoices": ("workers.commands.invoices", "Issue, show and credit invoices."),
    "keys": ("workers.commands.keys", "Show and rewrap the encryption keys of accounts."),
    "mail": ("workers.commands.mail", "Preview and send messages; list failures and suppressions."),
    "metrics": ("workers.commands.processes", "Serve metrics for Prometheus."),
    "migrate": ("workers.commands.processes", "Upgrade the database to the schema of this version."),
    "payments": ("workers.commands.payments", "Show payments, and reconcile them with the provider's."),
    "policy": ("workers.observe.promises.report", "Check each promise of the privacy policy against live data."),
    "purge": ("workers.commands.purge", "Show purges; repeat erasures after a backup was restored."),
    "relay": ("workers.commands.processes", "Wake workers as soon as work is requested."),
    "reminders": ("workers.commands.reminders", "Explain, forecast and pause payment reminders."),
    "request": ("workers.commands.processes", "Request work by hand, such as a statement."),
    "roles": ("workers.commands.roles", "Print or grant the rights of the database roles."),
    "security": ("workers.commands.security", "Audit the installed packages for known vulnerabilities."),
    "sessions": ("workers.commands.sessions", "Show and sweep the session stores."),
    "statements": ("workers.commands.statements", "Plan, show and render account statements."),
    "terminate": ("workers.commands.terminate", "End a customer's contract: export all data, then erase it."),
    "up": ("workers.commands.processes", "Start the local stack: servers, worker, Beat, relay, Flower."),
    "work": ("workers.commands.work", "List, retry and cancel work; pause and limit jobs."),
}
