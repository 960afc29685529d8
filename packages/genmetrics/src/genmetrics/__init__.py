"""genmetrics."""
