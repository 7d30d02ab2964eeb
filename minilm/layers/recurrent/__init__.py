"""Recurrent layers: one step each, and one loop for all of them."""
