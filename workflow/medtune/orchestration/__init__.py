"""Jobs, processes and versions: launch, Slurm, DVC, status and lineage."""
