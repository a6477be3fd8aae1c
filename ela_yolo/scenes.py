"""Data-set YAMLs name ``ela_yolo.scenes.render``; it lies in :mod:`ela_yolo.data.scenes`."""

from ela_yolo.data.scenes import render

__all__ = ["render"]
