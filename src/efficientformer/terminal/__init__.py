"""Results as tables for people to read in a terminal."""
