"""Frozen networks that the training looks at: feature teachers and perceptual distances."""
