"""All code that relies on the internals of Ultralytics."""
