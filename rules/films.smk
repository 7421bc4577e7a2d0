"""Chest films to stored images and splits, a shard of one source per job.

Inputs:  the folders of `films.sources`
Outputs: index/films/                 what the sources' tables say of every film, its manifest last
         index/verification.json      counts of films and findings; stops here if some are errors
         index/verified/              what the headers of the files say, a table per shard
         index/images.json            counts of them; stops here if files cannot be used
         media/<source>/<film>.png    stored images, and media/<shard>.parquet, written after them
         index/splits.parquet         the split of every patient, for all sources and tasks
Beside:  logs/findings.csv            every finding, for people; written whether it stops or not
         cache/images/                what was converted: no rerun converts it again
"""

VERIFICATION = f"{RESULTS}/index/verification.json"


def film_shards(pattern):
    """Return an input function that lists one file per shard of the films."""

    def listed(wildcards):
        folder = Path(checkpoints.film_index.get().output.index).parent
        names = sorted(path.stem for path in folder.glob("*.parquet"))
        return [pattern.format(shard=name) for name in names]

    return listed


checkpoint film_index:
    """Join the tables of all sources, and check every film."""
    output:
        index=f"{RESULTS}/index/films/manifest.json",
        summary=VERIFICATION,
    log:
        text=f"{LOGS}/film_index.log",
        # A log and no output, so that it is still there after the rule stopped.
        table=f"{LOGS}/findings.parquet",
    benchmark:
        f"{LOGS}/film_index.tsv"
    resources:
        mem_mb=8000,
        runtime=480,
    params:
        config=settings("filmindex"),
        code=code("film_index"),
        inventory=lambda wildcards: film_tables(),
        results=RESULTS,
    message:
        "Films of all sources: {output.index}"
    shell:
        "medtune film-index --config {params.config:q} --results {params.results}"
        " --table {log.table} 2>&1 | tee -i {log.text}"


rule film_verify:
    """Look at the header and the end of every file of a shard."""
    input:
        f"{RESULTS}/index/films/manifest.json",
    output:
        f"{RESULTS}/index/verified/{{shard}}.parquet",
    log:
        f"{LOGS}/film_verify/{{shard}}.log",
    benchmark:
        f"{LOGS}/film_verify/{{shard}}.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        config=settings("filmverify"),
        code=code("film_verify"),
        results=RESULTS,
    message:
        "Headers of shard {wildcards.shard}"
    shell:
        "medtune film-verify --config {params.config:q} --results {params.results}"
        " --shard {wildcards.shard} 2>&1 | tee -i {log}"


rule film_findings:
    """Join what the headers say; stop at files that cannot be used unless they are excluded."""
    input:
        film_shards(f"{RESULTS}/index/verified/{{shard}}.parquet"),
    output:
        f"{RESULTS}/index/images.json",
    log:
        text=f"{LOGS}/film_findings.log",
        # A log and no output, so that it is still there after the rule stopped.
        table=f"{LOGS}/image_findings.parquet",
    params:
        config=settings("filmfindings"),
        code=code("film_findings"),
        results=RESULTS,
    message:
        "Headers of all films: {output}"
    shell:
        "medtune film-findings --config {params.config:q} --results {params.results}"
        " --table {log.table} --output {output} 2>&1 | tee -i {log.text}"


rule film_images:
    """Convert a shard of films."""
    input:
        f"{RESULTS}/index/films/manifest.json",
        # All headers are seen before the first conversion. Not `ancient`: behind a job that runs,
        # Snakemake would then miss that this one's own settings or code have changed.
        f"{RESULTS}/index/images.json",
    output:
        f"{RESULTS}/media/{{shard}}.parquet",
    log:
        f"{LOGS}/film_images/{{shard}}.log",
    benchmark:
        f"{LOGS}/film_images/{{shard}}.tsv"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=480,
    params:
        config=settings("filmimages"),
        code=code("film_images"),
        results=RESULTS,
        cache=f"{RESULTS}/cache/images",
    message:
        "Stored images of shard {wildcards.shard}"
    shell:
        "medtune film-images --config {params.config:q} --results {params.results}"
        " --shard {wildcards.shard} --cache {params.cache} --processes {threads} 2>&1 | tee -i {log}"


rule film_splits:
    """Decide who trains, validates and tests."""
    input:
        index=f"{RESULTS}/index/films/manifest.json",
        images=film_shards(f"{RESULTS}/media/{{shard}}.parquet"),
    output:
        f"{RESULTS}/index/splits.parquet",
    log:
        f"{LOGS}/film_splits.log",
    params:
        config=settings("filmsplits"),
        code=code("film_splits"),
        results=RESULTS,
    message:
        "Splits: {output}"
    shell:
        "medtune film-splits --config {params.config:q} --results {params.results}"
        " 2>&1 | tee -i {log}"
