"""Learning weights: the recipe, the loop, its checkpoints, and accuracy with its number of images."""
