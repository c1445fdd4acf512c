"""The transformers program, run as a child of ours: load, batch, stream, cancel."""
