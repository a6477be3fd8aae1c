"""An exported file compared with its model."""
