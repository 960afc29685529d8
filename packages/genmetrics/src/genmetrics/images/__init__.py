"""Sets of images: found, decoded, cropped, paired and written. Imports no torch."""
