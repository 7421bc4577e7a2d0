"""The base model, and supervised fine-tuning.

Inputs:  datasets/
Outputs: base/                        the tiny model, or a reference to an existing one
         sft/                         model, processor, history and, last, the manifest
"""


rule model:
    """Build or check the base model."""
    input:
        rules.annotate.output if CONFIG.model.builder else [],
    output:
        f"{RESULTS}/base/manifest.json",
    params:
        config=settings("model"),
        dataset=f"{RESULTS}/datasets",
        folder=subpath(output[0], parent=True),
    log:
        f"{LOGS}/model.log",
    shell:
        "medtune model --config {params.config:q} --dataset {params.dataset}"
        " --output {params.folder} 2>&1 | tee {log}"


rule sft:
    """Fine-tune on the gold answers."""
    input:
        base=rules.model.output[0],
        dataset=rules.annotate.output[0],
    output:
        f"{RESULTS}/sft/manifest.json",
    params:
        config=settings("sft"),
        base=subpath(input.base, parent=True),
        dataset=subpath(input.dataset, parent=True),
        folder=subpath(output[0], parent=True),
    log:
        f"{LOGS}/sft.log",
    benchmark:
        f"{LOGS}/sft.tsv"
    threads: 16
    resources:
        mem_mb=5000,
        runtime=2880,
    shell:
        "medtune sft --config {params.config:q} --base {params.base}"
        " --dataset {params.dataset} --output {params.folder} 2>&1 | tee {log}"
