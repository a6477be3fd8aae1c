"""Exports a model and compares the file with the model."""
