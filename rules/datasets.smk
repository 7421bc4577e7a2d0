"""Converted cases to samples: splits, Arrow, LLaVA JSON and the Seg-Zero view.

Inputs:  media/<shard>.parquet, index/verification.json
Outputs: datasets/                    the data set folder, its manifest last
"""


rule annotate:
    """Write the data set."""
    input:
        shards=shards(f"{RESULTS}/media/{{shard}}.parquet"),
        verification=f"{RESULTS}/index/verification.json",
    output:
        f"{RESULTS}/datasets/manifest.json",
    log:
        f"{LOGS}/annotate.log",
    params:
        config=settings("annotate"),
        folder=subpath(output[0], parent=True),
    message:
        "Data set: {params.folder}"
    shell:
        "medtune annotate --config {params.config:q} --verification {input.verification}"
        " --output {params.folder} {input.shards} 2>&1 | tee {log}"
