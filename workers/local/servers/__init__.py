"""Each server of the local stack, from a wheel, on loopback."""
