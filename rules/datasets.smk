"""Converted cases to samples: splits and Arrow.

Inputs:  media/<shard>.parquet, index/verification.json
Outputs: datasets/                    the data set folder, its manifest last
"""


rule annotate:
    """Write the data set."""
    input:
        shards=shards(f"{RESULTS}/media/{{shard}}.parquet"),
        cases=f"{RESULTS}/index/cases.parquet",
        verification=f"{RESULTS}/index/verification.json",
    output:
        f"{RESULTS}/datasets/manifest.json",
    log:
        f"{LOGS}/annotate.log",
    params:
        config=settings("annotate"),
        code=code("annotate"),
        size=CONFIG.media.shard_size,
        shards=f"{RESULTS}/media",
        folder=subpath(output[0], parent=True),
    message:
        "Data set: {params.folder}"
    shell:
        "medtune annotate --config {params.config:q} --cases {input.cases}"
        " --shard-size {params.size} --shards {params.shards}"
        " --verification {input.verification} --output {params.folder} 2>&1 | tee -i {log}"


PREPARED = [
    *rules.qc_page.input,
    *rules.qc_page.output,
    *rules.annotate.input,
    *rules.annotate.output,
]
