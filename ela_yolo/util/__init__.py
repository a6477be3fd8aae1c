"""Small helpers that import neither PyTorch nor Ultralytics."""
