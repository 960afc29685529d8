"""The commands ``mimflow-*``: one module each, and what they share."""
