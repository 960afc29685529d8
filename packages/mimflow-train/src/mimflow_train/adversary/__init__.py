"""The decoder phase's adversaries: discriminators, their losses, and what they are shown."""
