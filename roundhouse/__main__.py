"""`python -m roundhouse` is the `roundhouse` command."""

from roundhouse.cli import main

main()
