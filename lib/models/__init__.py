"""Blocks and the language-model stack; configs can be read without torch."""
