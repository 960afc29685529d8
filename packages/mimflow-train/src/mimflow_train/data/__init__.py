"""Labelled images: where they come from and in which order the training sees them."""
