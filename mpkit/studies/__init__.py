"""Studies: named recipes, the protocol that evaluates them, their records, and shipped networks.

The rooms' files are imported one by one, so that a record is read without the training stack.
"""
