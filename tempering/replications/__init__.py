"""Claims of papers as small experiments, one file each: `temper replicate NAME` runs one. Results are kept in replications/ of the repository."""
