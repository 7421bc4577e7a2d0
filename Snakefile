"""medtune: raw medical volumes to a trained, evaluated and reported vision-language model.

    snakemake                                   the embedded demo
    snakemake --configfile config/FILE.yaml     another experiment
    snakemake sft | grpo | evaluate | report    one stage, with what it needs
    snakemake export                            the trained model as a folder to hand on

Everything is written below `results/<experiment>/`. Rules call the `medtune` command line.
"""

import sys

if not workflow.configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/slurm.smk"


if CONFIG.films:

    include: "rules/films.smk"
    include: "rules/film_datasets.smk"

else:

    include: "rules/sources.smk"
    include: "rules/media.smk"
    include: "rules/qc.smk"
    include: "rules/datasets.smk"


include: "rules/views.smk"
include: "rules/sft.smk"
include: "rules/grpo.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/export.smk"


if not workflow.remote_exec:
    memory_grows_if_it_ran_out()


localrules:
    all,
    prepare,
    evaluate,
    export,


# Targets ask for every file on the way, not for the last one alone: a stage that was interrupted
# has lost its output, and Snakemake would not miss it behind an older report.
rule all:
    default_target: True
    input:
        PREPARED,
        rules.score.input,
        rules.report.input,
        rules.report.output,


rule prepare:
    """All media and annotations, and the pages of quality control."""
    input:
        PREPARED,


rule evaluate:
    """All predictions and scores."""
    input:
        rules.score.input,
        rules.score.output,


rule export:
    """The models of `export.stages`, as folders to hand on."""
    input:
        expand(rules.export_model.output, model=CONFIG.export.stages),
