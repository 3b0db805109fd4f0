"""`tenure --help` lists every command without importing one."""

from __future__ import annotations

import subprocess
import sys

from workers.commands import COMMANDS

HELP = """
import sys
from workers.commands import cli
cli.main(["--help"], prog_name="tenure", standalone_mode=False)
ours = ("models", "email_templates", "tasks", "scheduler", "workers")
print(sorted(name for name in sys.modules if name.partition(".")[0] in ours), file=sys.stderr)
files = {name.partition(".")[0]: str(getattr(module, "__file__", "")) for name, module in sys.modules.items()}
print(sorted(name for name, file in files.items() if "site-packages" in file and name[0] != "_"), file=sys.stderr)
"""


def test_the_help_lists_every_command_and_imports_click_alone() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.splitlines() == ["['workers', 'workers.commands']", "['click']"]
    for name, (_, line) in COMMANDS.items():
        assert f"  {name:<13}  {line}\n" in done.stdout
