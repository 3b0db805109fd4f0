"""`python -m workers.commands` is `tenure`."""

from workers.commands import main

main()
