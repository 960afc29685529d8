"""mim_encoder."""
