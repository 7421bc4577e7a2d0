"""Volumes to videos, one shard of cases per job.

Inputs:  index/verified/<shard>.parquet and the files it names; index/verification.json decides
         which cases come into the data set, and changes nothing here
         (`verify` and `findings` come first, by priority: as an `ancient` input, the findings would
         hide that a conversion has to run itself wherever they run too)
Outputs: media/<source>/<case>.mp4    written before the table that lists them
         media/<shard>.parquet        media, truth and geometry of every converted case
"""


rule convert:
    """Convert a shard of cases."""
    input:
        verified=f"{RESULTS}/index/verified/{{shard}}.parquet",
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
