"""Draws and measures the gates of ELA blocks."""
