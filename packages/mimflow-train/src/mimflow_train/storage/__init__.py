"""Run folders and their checkpoints, on storage that fails at times."""
