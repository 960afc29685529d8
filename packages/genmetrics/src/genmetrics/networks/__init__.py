"""Feature networks: uint8 images in, float32 vectors out; and where their weights come from."""
