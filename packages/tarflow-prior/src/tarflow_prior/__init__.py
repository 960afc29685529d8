"""tarflow_prior."""
