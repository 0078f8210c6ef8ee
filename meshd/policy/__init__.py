"""Import policy: what of that which the mesh says reaches this kernel, and why. Pure."""
