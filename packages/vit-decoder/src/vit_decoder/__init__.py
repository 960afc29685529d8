"""vit_decoder."""
