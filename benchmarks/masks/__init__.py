"""A public benchmark of masks: who notices a hidden gradient, and who gets round it."""
