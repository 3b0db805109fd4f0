"""Which installed packages have known vulnerabilities."""
