"""The budgets of docs/performance.md, measured: `make bench`. Ratios are against a direct call in the same run."""
