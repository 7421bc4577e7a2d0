"""Reinforcement learning on the reward of sampled answers.

Inputs:  sft/, datasets/
Outputs: difficulty.parquet           how hard each training prompt is, for a curriculum
         grpo/                        model, processor, history and, last, the manifest;
         grpo/trained.json            see `done`
"""


rule difficulty:
    """Score sampled answers to the training prompts; only with grpo.curriculum."""
    input:
        model=rules.sft.output[0],
        dataset=rules.annotate.output[0],
    output:
        f"{RESULTS}/difficulty.parquet",
    log:
        f"{LOGS}/difficulty.log",
    benchmark:
        f"{LOGS}/difficulty.tsv"
    threads: gpu_threads
    resources:
        **slurm_gpus("difficulty"),
        mem_mb=5000,
        runtime=720,
    params:
        config=settings("difficulty"),
        code=code("difficulty"),
        model=subpath(input.model, parent=True),
        dataset=subpath(input.dataset, parent=True),
    message:
        "Difficulty of the training prompts: {output}"
    shell:
        "medtune difficulty --config {params.config:q} --model {params.model}"
        " --dataset {params.dataset} --output {output} 2>&1 | tee -i {log}"


rule grpo:
    """Train on the model's own answers."""
    input:
        start=rules.sft.output[0],
        dataset=rules.annotate.output[0],
        difficulty=rules.difficulty.output if CONFIG.grpo.curriculum else [],
    output:
        done("grpo"),
    log:
        f"{LOGS}/grpo.log",
    benchmark:
        f"{LOGS}/grpo.tsv"
    threads: gpu_threads
    resources:
        **slurm_gpus("grpo"),
        nodes=1,
        gpus_per_node=0,
        rollout_gpus=0,
        mem_mb=5000,
        runtime=2880,
    params:
        config=settings("grpo"),
        code=code("grpo"),
        start=subpath(input.start, parent=True),
        dataset=subpath(input.dataset, parent=True),
        folder=subpath(output[0], parent=True),
        chosen=lambda wildcards, input: (
            f"--difficulty {input.difficulty}" if input.difficulty else ""
        ),
    message:
        "Reinforcement learning: {params.folder}"
    shell:
        "medtune launch --nodes {resources.nodes} --gpus {resources.gpus_per_node}"
        " --cpus {threads} --rollout-gpus {resources.rollout_gpus} -- grpo --config {params.config:q} --start {params.start}"
        " --dataset {params.dataset} {params.chosen}"
        " --output {params.folder} 2>&1 | tee -i {log}; cp {params.folder}/manifest.json {output}"
