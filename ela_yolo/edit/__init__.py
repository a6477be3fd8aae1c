"""ELA rows put into model YAMLs and checkpoints, and taken out again."""
