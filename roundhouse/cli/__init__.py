"""The command line: one file per command group, each parses, calls and prints."""

from roundhouse.cli.main import main

__all__ = ["main"]
