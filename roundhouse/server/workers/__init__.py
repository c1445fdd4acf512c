"""Several processes that answer on one port, and one owner of the engines behind them (docs/server.md)."""
