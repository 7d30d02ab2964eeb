"""The specification: every layer in plain NumPy and float64, number by number, with its gradient derived by hand."""
