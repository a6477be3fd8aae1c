"""All that touches the insides of Ultralytics."""
