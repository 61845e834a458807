"""The main job, from a folder of images and a budget to a proven network: its stages in order."""
