"""Data from files: points, tables and images, and their fingerprints."""

from scorelab.data.fingerprints import changes, record
from scorelab.data.images import SPACING, DequantisedImages, Images, images
from scorelab.data.points import FILES, fingerprint, points, read_points, read_table

__all__ = [
  "FILES",
  "SPACING",
  "DequantisedImages",
  "Images",
  "changes",
  "fingerprint",
  "images",
  "points",
  "read_points",
  "read_table",
  "record",
]
