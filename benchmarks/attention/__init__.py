"""The attention laboratory: what each variant costs, and what it can recall."""
