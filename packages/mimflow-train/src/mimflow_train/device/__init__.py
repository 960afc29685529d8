"""What a run takes of a device, and what a device has."""
