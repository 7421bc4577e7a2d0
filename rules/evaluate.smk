"""Answers of base, SFT and GRPO to the test split, and their scores beside a constant answer.

Inputs:  base/, sft/, grpo/, datasets/
Outputs: eval/predictions/<model>.parquet   raw answers
         eval/metrics.json                  estimates with intervals, paired comparisons, and what
                                            answers earn that need no video
         eval/cases.parquet                 every answer with its metrics
         means.json                         the means of greedy answers alone, for `dvc metrics`
"""

MODELS = ("base", "sft", "grpo")
# The untrained base cannot tell videos apart; shuffling them would say nothing.
MODES = {"base": ("greedy",), "sft": ("greedy", "sampled", "shuffled")}


rule predict:
    """Answer the test split with one model."""
    input:
        model=f"{RESULTS}/{{model}}/manifest.json",
        dataset=rules.annotate.output[0],
    output:
        f"{RESULTS}/eval/predictions/{{model}}.parquet",
    log:
        f"{LOGS}/predict/{{model}}.log",
    benchmark:
        f"{LOGS}/predict/{{model}}.tsv"
    threads: 16
    resources:
        **slurm_gpus("predict"),
        mem_mb=5000,
        runtime=720,
    params:
        config=settings("predict"),
        code=code("predict"),
        model=subpath(input.model, parent=True),
        dataset=subpath(input.dataset, parent=True),
        modes=lambda wildcards: [
            f"--mode {mode}" for mode in MODES.get(wildcards.model, MODES["sft"])
        ],
    message:
        "Predictions of {wildcards.model}"
    shell:
        "medtune predict --config {params.config:q} --model {params.model}"
        " --dataset {params.dataset} {params.modes} --output {output} 2>&1 | tee -i {log}"


rule score:
    """Score every answer and compare the stages."""
    input:
        predictions=expand(rules.predict.output, model=MODELS),
        dataset=rules.annotate.output[0],
    output:
        metrics=f"{RESULTS}/eval/metrics.json",
        cases=f"{RESULTS}/eval/cases.parquet",
        means=f"{RESULTS}/means.json",
    log:
        f"{LOGS}/score.log",
    params:
        config=settings("score"),
        code=code("score"),
        dataset=subpath(input.dataset, parent=True),
    message:
        "Scores: {output.metrics}"
    shell:
        "medtune score --config {params.config:q} --dataset {params.dataset}"
        " --metrics {output.metrics} --cases {output.cases} --means {output.means}"
        " {input.predictions} 2>&1 | tee -i {log}"
