"""Quality control: what people look at before anything is trained; nothing depends on it.

Inputs:  media/, index/, and the masks that the cases name
Outputs: qc/<source>/<case>.jpg       contact sheets: box and mask on the decoded frames
         qc/<shard>.parquet           the sheets of a shard, written after them
         qc/<source>.html             one page per source; opens offline, links the sheets
"""


rule qc:
    """Draw the contact sheets of a shard."""
    input:
        verified=f"{RESULTS}/index/verified/{{shard}}.parquet",
        cases=f"{RESULTS}/media/{{shard}}.parquet",
    output:
        f"{RESULTS}/qc/{{shard}}.parquet",
    log:
        f"{LOGS}/qc/{{shard}}.log",
    benchmark:
        f"{LOGS}/qc/{{shard}}.tsv"
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        config=settings("qc"),
        code=code("qc"),
    message:
        "Contact sheets of shard {wildcards.shard}"
    shell:
        "medtune qc --config {params.config:q} --verified {input.verified} --cases {input.cases}"
        " --output {output} 2>&1 | tee -i {log}"


rule qc_page:
    """Write one page per source."""
    input:
        sheets=shards(f"{RESULTS}/qc/{{shard}}.parquet"),
        shards=shards(f"{RESULTS}/media/{{shard}}.parquet"),
        verified=shards(f"{RESULTS}/index/verified/{{shard}}.parquet"),
        cases=f"{RESULTS}/index/cases.parquet",
        rest=f"{RESULTS}/index/left_out.parquet",
    output:
        expand(f"{RESULTS}/qc/{{source}}.html", source=[s.name for s in CONFIG.sources]),
    log:
        f"{LOGS}/qc_page.log",
    params:
        config=settings("findings"),
        code=code("qc_page"),
        size=CONFIG.media.shard_size,
        verified=f"{RESULTS}/index/verified",
        shards=f"{RESULTS}/media",
        folder=subpath(output[0], parent=True),
    message:
        "Pages of quality control: {params.folder}"
    shell:
        "medtune qc-page --config {params.config:q} --cases {input.cases}"
        " --shard-size {params.size} --verified {params.verified} --shards {params.shards}"
        " --output {params.folder} 2>&1 | tee -i {log}"
