"""Volumes to videos, one shard of cases per job.

Inputs:  index/verified/<shard>.parquet and the files it names; index/verification.json, so that no
         conversion begins before all cases are seen. It is not `ancient`: behind a job that runs,
         Snakemake would then miss that a conversion's own settings or code have changed. What is
         converted already is in a journal, and is not converted again.
Outputs: media/<source>/<case>.mp4    written before the table that lists them
         media/<shard>.parquet        media, truth and geometry of every converted case
"""


rule convert:
    """Convert a shard of cases."""
    input:
        verified=f"{RESULTS}/index/verified/{{shard}}.parquet",
        verification=f"{RESULTS}/index/verification.json",
    output:
        f"{RESULTS}/media/{{shard}}.parquet",
    log:
        f"{LOGS}/convert/{{shard}}.log",
    benchmark:
        f"{LOGS}/convert/{{shard}}.tsv"
    resources:
        mem_mb=3000,
        runtime=240,
    params:
        config=settings("convert"),
        code=code("convert"),
    message:
        "Convert shard {wildcards.shard} to videos"
    shell:
        "medtune convert --config {params.config:q} --verified {input.verified}"
        " --output {output} 2>&1 | tee -i {log}"
