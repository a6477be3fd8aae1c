"""Models trained alike over several seeds, and compared."""
