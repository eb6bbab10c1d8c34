"""How much memory an evaluation needs, and what keeping freed blocks is worth."""
