"""What the gates of ELA blocks do, in pictures and numbers."""
