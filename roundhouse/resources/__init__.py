"""What fits."""
