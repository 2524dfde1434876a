"""Scans and convolutions as functions of tensors, each with a plain reference beside the fast one."""
