"""`tenure demo`: a believable company, its background work done before your eyes, and the result checked."""
