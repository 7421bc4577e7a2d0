"""Find the cases of all sources and check their files.

Inputs:  the folders of `sources` (written first, if the experiment has a `phantom`)
Outputs: index/cases.parquet          one row per case
         index/left_out.parquet       folders with images that became no case
         index/verification.json      which cases are sound; stops here if some are not
Beside:  logs/findings.csv            every finding, for people; written whether it stops or not
         logs/findings.parquet        the same for programs
         logs/qc/<source>.html        the same as a page, before there are any pictures
"""

VERIFICATION = f"{RESULTS}/index/verification.json"

if CONFIG.phantom:

    rule phantom:
        """Write synthetic patients."""
        output:
            f"{CONFIG.phantom.root}/manifest.json",
        log:
            f"{LOGS}/phantom.log",
        params:
            config=settings("phantom"),
            code=code("phantom"),
        message:
            "Synthetic patients: {output}"
        shell:
            "medtune phantom --config {params.config:q} 2>&1 | tee -i {log}"


checkpoint index:
    """List the cases of all sources."""
    input:
        rules.phantom.output if CONFIG.phantom else [],
    output:
        cases=f"{RESULTS}/index/cases.parquet",
        left_out=f"{RESULTS}/index/left_out.parquet",
    log:
        f"{LOGS}/index.log",
    params:
        config=settings("index"),
        code=code("index"),
        inventory=lambda wildcards: raw_files(),
    message:
        "Cases of all sources: {output.cases}"
    shell:
        "medtune index --config {params.config:q} --output {output.cases} 2>&1 | tee -i {log}"


rule verify:
    """Read every file of a shard to its last byte."""
    input:
        f"{RESULTS}/index/cases.parquet",
    output:
        f"{RESULTS}/index/verified/{{shard}}.parquet",
    log:
        f"{LOGS}/verify/{{shard}}.log",
    benchmark:
        f"{LOGS}/verify/{{shard}}.tsv"
    resources:
        mem_mb=3000,
        runtime=120,
    params:
        config=settings("verify"),
        code=code("verify_shard"),
        size=CONFIG.media.shard_size,
        inventory=raw_files_of,
    message:
        "Verify shard {wildcards.shard}"
    shell:
        "medtune verify-shard --config {params.config:q} --cases {input} --output {output}"
        " --shard {wildcards.shard} --shard-size {params.size} 2>&1 | tee -i {log}"


rule findings:
    """Join the findings; stop at errors unless the configuration excludes their cases."""
    input:
        shards(f"{RESULTS}/index/verified/{{shard}}.parquet"),
        cases=f"{RESULTS}/index/cases.parquet",
        rest=f"{RESULTS}/index/left_out.parquet",
    output:
        f"{RESULTS}/index/verification.json",
    log:
        text=f"{LOGS}/findings.log",
        # A log and no output, like what is beside it: still there after the rule stopped.
        table=f"{LOGS}/findings.parquet",
    params:
        config=settings("findings"),
        code=code("findings"),
        size=CONFIG.media.shard_size,
        parts=f"{RESULTS}/index/verified",
        pages=f"{LOGS}/qc",
    message:
        "Findings of the verification: {output}"
    shell:
        "medtune findings --config {params.config:q} --cases {input.cases}"
        " --shard-size {params.size} --parts {params.parts} --table {log.table}"
        " --pages {params.pages} --output {output} 2>&1 | tee -i {log.text}"
