"""The commands ``mimflow-train``, ``mimflow-sample`` and ``mimflow-data``."""
