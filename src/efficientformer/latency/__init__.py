"""What an architecture costs on a device: measured, tabled, predicted, and checked on the exported file."""
