"""One command, one table: each job beside its physical limit and what one would pick instead (`README.md`)."""
