"""The metrics, as functions of features or of pairs of images."""
