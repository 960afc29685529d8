"""Features of whole sets of images, kept on disk, and their statistics."""
