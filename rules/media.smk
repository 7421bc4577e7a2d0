"""Volumes to videos, one shard of cases per job.

Inputs:  index/cases.parquet, index/verification.json, and the files they name
Outputs: media/<source>/<case>.mp4    written before the table that lists them
         media/<shard>.parquet        media, truth and geometry of every converted case
"""


rule convert:
    """Convert a shard of cases."""
    input:
        cases=f"{RESULTS}/index/cases.parquet",
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
    message:
        "Convert shard {wildcards.shard} to videos"
    shell:
        "medtune convert --config {params.config:q} --cases {input.cases}"
        " --verified {input.verified} --verification {input.verification} --shard {wildcards.shard} --output {output}"
        " 2>&1 | tee -i {log}"
