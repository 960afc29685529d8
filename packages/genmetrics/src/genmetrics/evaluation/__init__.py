"""From sets of images to a report: what is judged, by which protocol, against what."""
