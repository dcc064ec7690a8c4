"""Evidence that a method is right and does what its paper says: replications of claims, and the digests that tie a result to its code."""
