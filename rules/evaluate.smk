"""Answers of base, SFT, GRPO, further models and baselines to the test split, and their scores.

Inputs:  base/, sft/, grpo/, datasets/
Outputs: eval/models/<model>/         a reference to each model of `evaluation.models`
         eval/predictions/<model>/<shard>.parquet   its answers; baselines answer without a model
         eval/judged/<model>/<kind>.parquet   verdicts of a judge, refused replies beside
         eval/metrics.json            estimates with intervals, by groups too, paired comparisons,
                                      systematic mistakes, and what answers earn that need no video
         eval/metrics.parquet         the same figures as a tidy table, one row each
         eval/cases.parquet           every answer with its metrics
         means.json                   the means of greedy answers alone, for `dvc metrics`
Beside:  cache/<model>/, cache/judge/, cache/scores/   answers, verdicts and scores by models that
                                      were had once, so that no rerun makes them again; they may be
                                      removed when nothing runs
"""

MODELS = ("base", "sft", "grpo")
OTHERS = tuple(other.name for other in CONFIG.evaluation.models)
SHARDS = [f"{shard:04d}" for shard in range(CONFIG.evaluation.shards)]
JUDGED = (*MODELS, *OTHERS) if CONFIG.evaluation.judge else ()
# The untrained base cannot tell videos apart; shuffling them would say nothing.
MODES = {"base": ("greedy",), "sft": ("greedy", "sampled", "shuffled")}


wildcard_constraints:
    other="|".join(OTHERS) or "none",
    answering="|".join((*MODELS, *OTHERS)),


rule other_model:
    """Check and name a model that another has trained."""
    output:
        f"{RESULTS}/eval/models/{{other}}/manifest.json",
    log:
        f"{LOGS}/other_model/{{other}}.log",
    params:
        config=lambda wildcards: settings("model", wildcards.other),
        code=code("model"),
        dataset=f"{RESULTS}/datasets",
        folder=subpath(output[0], parent=True),
    message:
        "Model to compare with: {params.folder}"
    shell:
        "medtune model --config {params.config:q} --dataset {params.dataset}"
        " --output {params.folder} 2>&1 | tee -i {log}"


rule predict:
    """Answer a shard of the test split with one model."""
    input:
        model=lambda wildcards: done(wildcards.answering),
        dataset=rules.annotate.output[0],
    output:
        f"{RESULTS}/eval/predictions/{{answering}}/{{shard}}.parquet",
    log:
        f"{LOGS}/predict/{{answering}}.{{shard}}.log",
    benchmark:
        f"{LOGS}/predict/{{answering}}.{{shard}}.tsv"
    threads: gpu_threads
    resources:
        **slurm_gpus("predict"),
        mem_mb=5000,
        runtime=720,
    params:
        config=lambda wildcards: settings("predict", wildcards.answering),
        code=code("predict"),
        model=subpath(input.model, parent=True),
        dataset=subpath(input.dataset, parent=True),
        cache=f"{RESULTS}/cache/{{answering}}",
        number=lambda wildcards: int(wildcards.shard),
        shards=CONFIG.evaluation.shards,
        modes=lambda wildcards: [
            f"--mode {mode}" for mode in MODES.get(wildcards.answering, MODES["sft"])
        ],
    message:
        "Predictions of {wildcards.answering}, shard {wildcards.shard}"
    shell:
        "medtune predict --config {params.config:q} --model {params.model}"
        " --dataset {params.dataset} {params.modes} --cache {params.cache}"
        " --shard {params.number} --shards {params.shards}"
        " --output {output} 2>&1 | tee -i {log}"


rule baselines:
    """Answer the test split without a model."""
    input:
        dataset=rules.annotate.output[0],
    output:
        expand(
            f"{RESULTS}/eval/predictions/{{name}}/0000.parquet",
            name=BASELINES_OF[CONFIG.task.name],
        ),
    log:
        f"{LOGS}/baselines.log",
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        config=settings("baselines"),
        code=code("baselines"),
        dataset=subpath(input.dataset, parent=True),
        folder=subpath(output[0], ancestor=2),
    message:
        "Predictions of baselines"
    shell:
        "medtune baselines --config {params.config:q} --dataset {params.dataset}"
        " --output {params.folder} 2>&1 | tee -i {log}"


rule judge:
    """Let a language model judge reports and replies; only with evaluation.judge."""
    input:
        predictions=expand(rules.predict.output, shard=SHARDS, allow_missing=True),
        dataset=rules.annotate.output[0],
    output:
        expand(
            f"{RESULTS}/eval/judged/{{answering}}/{{name}}.parquet",
            name=("green", "conversation"),
            allow_missing=True,
        ),
    log:
        f"{LOGS}/judge/{{answering}}.log",
    threads: gpu_threads
    resources:
        **slurm_gpus("judge"),
        mem_mb=16000,
        runtime=2880,
    params:
        config=settings("judge"),
        code=code("judge"),
        prompts=prompts_sha256(JUDGE_PROMPTS),
        dataset=subpath(input.dataset, parent=True),
        predictions=lambda wildcards, input: Path(input.predictions[0]).parent,
        cache=f"{RESULTS}/cache/judge",
        folder=subpath(output[0], parent=True),
        server=f"{LOGS}/vllm/judge.{{answering}}.log",
    message:
        "Verdicts on {wildcards.answering}"
    shell:
        "medtune judge --config {params.config:q} --dataset {params.dataset}"
        " --predictions {params.predictions} --cache {params.cache}"
        " --output {params.folder} --log {params.server} 2>&1 | tee -i {log}"


rule score:
    """Score every answer and compare the stages."""
    input:
        judged=expand(rules.judge.output, answering=JUDGED),
        predictions=expand(
            rules.predict.output, answering=(*MODELS, *OTHERS), shard=SHARDS
        ),
        baselines=rules.baselines.output,
        dataset=rules.annotate.output[0],
    output:
        metrics=f"{RESULTS}/eval/metrics.json",
        cases=f"{RESULTS}/eval/cases.parquet",
        table=f"{RESULTS}/eval/metrics.parquet",
        means=f"{RESULTS}/means.json",
    log:
        f"{LOGS}/score.log",
    resources:
        mem_mb=16000 if CONFIG.films else 3000,
        runtime=480,
    params:
        config=settings("score"),
        code=code("score"),
        dataset=subpath(input.dataset, parent=True),
        folders=[
            f"{RESULTS}/eval/predictions/{name}"
            for name in (*MODELS, *OTHERS, *BASELINES_OF[CONFIG.task.name])
        ],
        judged=[f"--judged {RESULTS}/eval/judged/{name}" for name in JUDGED],
        cache=f"{RESULTS}/cache/scores",
    message:
        "Scores: {output.metrics}"
    shell:
        "medtune score --config {params.config:q} --dataset {params.dataset}"
        " --metrics {output.metrics} --cases {output.cases} --means {output.means}"
        " {params.judged} --cache {params.cache}"
        " {params.folders} 2>&1 | tee -i {log}"
