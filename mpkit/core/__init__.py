"""What everything stands on: checks, trees of tensors, files, records, devices, clusters."""
