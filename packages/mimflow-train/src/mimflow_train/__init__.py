"""mimflow_train."""
