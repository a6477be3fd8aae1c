"""Inserts blocks into model YAMLs and checkpoints, and removes them."""
