"""Keeps the kernel as the mesh wants it: what is decided, done, found and told of that."""
