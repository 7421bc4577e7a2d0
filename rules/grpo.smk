"""Reinforcement learning on the reward of sampled answers.

Inputs:  sft/, datasets/
Outputs: grpo/                        model, processor, history and, last, the manifest
"""


rule grpo:
    """Train on the model's own answers."""
    input:
        start=rules.sft.output[0],
        dataset=rules.annotate.output[0],
    output:
        f"{RESULTS}/grpo/manifest.json",
    log:
        f"{LOGS}/grpo.log",
    benchmark:
        f"{LOGS}/grpo.tsv"
    threads: 16
    resources:
        mem_mb=5000,
        runtime=2880,
    params:
        run=launcher,
        config=settings("grpo"),
        start=subpath(input.start, parent=True),
        dataset=subpath(input.dataset, parent=True),
        folder=subpath(output[0], parent=True),
    message:
        "Reinforcement learning: {params.folder}"
    shell:
        "{params.run} grpo --config {params.config:q} --start {params.start}"
        " --dataset {params.dataset} --output {params.folder} 2>&1 | tee -i {log}"
