"""Labelled pictures: where they are, how they are read, held or streamed, and what training does to them."""
