"""Recurrent layers and the loop over time, number by number."""
