"""Attention as a recurrence: a state of fixed size instead of a cache that grows; one file for each recurrence."""
