"""Is it fast, is it good, what does it use: load, measurements, and verdicts with intervals."""
