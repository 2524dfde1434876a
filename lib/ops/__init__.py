"""Scans, convolutions and attention as functions of tensors, a plain reference beside the fast one.

``scan`` (Mamba-1), ``ssd`` (Mamba-2), ``mamba3``, ``conv``, ``short_attention``,
``packed_attention``, ``linear`` and ``lookup`` hold the functions, ``backends`` says which
implementation serves a call. All modules here are imported, so that each can register backends.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
