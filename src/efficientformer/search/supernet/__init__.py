"""The supernet: how it is trained, what sub-networks inherit from it, and how important it finds what."""
