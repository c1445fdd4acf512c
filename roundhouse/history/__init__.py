"""One row for each request, on disk: what it cost, and percentiles over any time."""
