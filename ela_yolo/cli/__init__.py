"""The command ``ela-yolo``."""
