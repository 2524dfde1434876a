"""Analysis: functions from tensors and tables to numbers."""
