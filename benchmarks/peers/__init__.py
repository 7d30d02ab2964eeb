"""GPT-2 as users of other libraries write it, for the training-step benchmark: the same sizes, the same arithmetic."""
