"""Folders of images: found, split, decoded once into one array, and served in augmented batches."""
