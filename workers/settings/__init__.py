"""What the environment says, parsed once into frozen objects."""
