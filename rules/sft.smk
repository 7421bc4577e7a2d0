"""The base model, and supervised fine-tuning.

Inputs:  datasets/
Outputs: base/                        the tiny model, or a reference to an existing one
         sft/                         model, processor, history and, last, the manifest;
         sft/trained.json             see `done`
"""


rule model:
    """Build or check the base model."""
    input:
        rules.annotate.output if CONFIG.model.builder else [],
    output:
        f"{RESULTS}/base/manifest.json",
    log:
        f"{LOGS}/model.log",
    params:
        config=settings("model"),
        code=code("model"),
        dataset=lambda wildcards, output: f"{Path(output[0]).parents[1]}/datasets",
        folder=subpath(output[0], parent=True),
    message:
        "Base model: {params.folder}"
    shell:
        "medtune model --config {params.config:q} --dataset {params.dataset}"
        " --output {params.folder} 2>&1 | tee -i {log}"


rule sft:
    """Fine-tune on the gold answers."""
    input:
        base=rules.model.output[0],
        dataset=rules.annotate.output[0],
    output:
        done("sft"),
    log:
        f"{LOGS}/sft.log",
    benchmark:
        f"{LOGS}/sft.tsv"
    threads: gpu_threads
    resources:
        **slurm_gpus("sft"),
        nodes=1,
        gpus_per_node=0,
        mem_mb=5000,
        runtime=2880,
    params:
        config=settings("sft"),
        code=code("sft"),
        base=subpath(input.base, parent=True),
        dataset=subpath(input.dataset, parent=True),
        folder=subpath(output[0], parent=True),
    message:
        "Supervised fine-tuning: {params.folder}"
    shell:
        "medtune launch --nodes {resources.nodes} --gpus {resources.gpus_per_node}"
        " --cpus {threads} -- sft --config {params.config:q} --base {params.base}"
        " --dataset {params.dataset} --output {params.folder}"
        " 2>&1 | tee -i {log}; cp {params.folder}/manifest.json {output}"
