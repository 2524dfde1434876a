"""Tasks as code: a frozen config and a `build` that turns a seed into tensors."""
