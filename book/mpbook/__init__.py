"""The code that only the book needs: pages, figures, theory and teaching material."""
