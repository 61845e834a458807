"""The jobs, from a folder of images to a network and its proof: slimming, training, shipping, in stages."""
