"""Trained models as folders to hand on; only for `snakemake export`.

Inputs:  sft/ or grpo/, datasets/, and eval/metrics.json if it is there when the workflow starts:
         evaluate first, or the model card says "not run"
Outputs: export/<model>/              weights, processor, model card and, last, the manifest
"""


rule export_model:
    """Round, check by reloading, describe."""
    input:
        model=lambda wildcards: done(wildcards.model),
        dataset=rules.annotate.output[0],
        metrics=branch(
            exists(rules.score.output.metrics), then=rules.score.output.metrics
        ),
    output:
        f"{RESULTS}/export/{{model}}/manifest.json",
    log:
        f"{LOGS}/export_model/{{model}}.log",
    resources:
        **slurm_gpus("export_model"),
        mem_mb=5000,
        runtime=120,
    params:
        config=settings("export"),
        code=code("export"),
        model=subpath(input.model, parent=True),
        dataset=subpath(input.dataset, parent=True),
        metrics=lambda wildcards, input: (
            f"--metrics {input.metrics}" if input.metrics else ""
        ),
        folder=subpath(output[0], parent=True),
    message:
        "Export: {params.folder}"
    shell:
        "medtune export --config {params.config:q} --model {params.model}"
        " --dataset {params.dataset} {params.metrics} --output {params.folder} 2>&1 | tee -i {log}"
