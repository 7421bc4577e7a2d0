"""Texts of chest films, and their data set.

Inputs:  index/films/, index/splits.parquet, media/<shard>.parquet
Outputs: texts/<step>/<shard>.parquet what a language model wrote, with what was refused beside
         datasets/                    the data set folder, its manifest last
Beside:  cache/texts/                 answers of the language model: no rerun asks for them again
"""

TEXTS = CONFIG.films.texts
HAS_TEXTS = CONFIG.films.has_texts


rule film_texts:
    """Filter reports and make conversations; or check those that others made."""
    input:
        index=f"{RESULTS}/index/films/manifest.json",
        images=f"{RESULTS}/media/{{shard}}.parquet",
    output:
        f"{RESULTS}/texts/filter/{{shard}}.parquet",
        f"{RESULTS}/texts/talk/{{shard}}.parquet",
    log:
        f"{LOGS}/film_texts/{{shard}}.log",
    threads: gpu_threads
    resources:
        **slurm_gpus("film_texts"),
        mem_mb=16000,
        runtime=2880,
    params:
        config=settings("filmtexts"),
        code=code("film_texts"),
        inventory=lambda wildcards: given_texts(),
        prompts=prompts_sha256(),
        results=RESULTS,
        cache=f"{RESULTS}/cache/texts",
    message:
        "Texts of shard {wildcards.shard}"
    shell:
        "medtune film-texts --config {params.config:q} --results {params.results}"
        " --shard {wildcards.shard} --cache {params.cache} 2>&1 | tee -i {log}"


rule film_reasoning:
    """Write reasoning that leads to the truth; only with films.texts.reasoning."""
    input:
        index=f"{RESULTS}/index/films/manifest.json",
        texts=rules.film_texts.output,
        images=f"{RESULTS}/media/{{shard}}.parquet",
        splits=rules.film_splits.output,
    output:
        f"{RESULTS}/texts/reasoning/{{shard}}.parquet",
    log:
        f"{LOGS}/film_reasoning/{{shard}}.log",
    threads: gpu_threads
    resources:
        **slurm_gpus("film_reasoning"),
        mem_mb=16000,
        runtime=2880,
    params:
        config=settings("filmannotate"),
        code=code("film_reasoning"),
        prompts=prompts_sha256(),
        results=RESULTS,
        cache=f"{RESULTS}/cache/texts",
    message:
        "Reasoning of shard {wildcards.shard}"
    shell:
        "medtune film-reasoning --config {params.config:q} --results {params.results}"
        " --shard {wildcards.shard} --cache {params.cache} 2>&1 | tee -i {log}"


rule annotate:
    """Write the data set."""
    input:
        index=f"{RESULTS}/index/films/manifest.json",
        images=film_shards(f"{RESULTS}/media/{{shard}}.parquet"),
        splits=rules.film_splits.output,
        texts=(
            film_shards(f"{RESULTS}/texts/filter/{{shard}}.parquet")
            if HAS_TEXTS
            else []
        ),
        talks=(
            film_shards(f"{RESULTS}/texts/talk/{{shard}}.parquet") if HAS_TEXTS else []
        ),
        reasoning=(
            film_shards(f"{RESULTS}/texts/reasoning/{{shard}}.parquet")
            if TEXTS and TEXTS.reasoning
            else []
        ),
    output:
        f"{RESULTS}/datasets/manifest.json",
    log:
        f"{LOGS}/annotate.log",
    benchmark:
        f"{LOGS}/annotate.tsv"
    resources:
        mem_mb=8000,
        runtime=480,
    params:
        config=settings("filmannotate"),
        code=code("annotate_films"),
        results=RESULTS,
        folder=subpath(output[0], parent=True),
    message:
        "Data set: {params.folder}"
    shell:
        "medtune annotate-films --config {params.config:q} --results {params.results}"
        " --output {params.folder} 2>&1 | tee -i {log}"


PREPARED = [*rules.annotate.input, *rules.annotate.output]
