"""Small helpers that know neither PyTorch nor Ultralytics."""
