"""Trains models alike over several seeds, and compares them."""
