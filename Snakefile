"""medtune: raw medical volumes to a trained, evaluated and reported vision-language model.

    snakemake                                   the embedded demo
    snakemake --configfile config/FILE.yaml     another experiment
    snakemake sft | grpo | evaluate | report    one stage, with what it needs

Everything is written below `results/<experiment>/`. Rules call the `medtune` command line.
"""

import sys

if not workflow.configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/sources.smk"
include: "rules/media.smk"
include: "rules/datasets.smk"
include: "rules/sft.smk"
include: "rules/grpo.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


localrules:
    all,
    prepare,
    evaluate,


rule all:
    default_target: True
    input:
        rules.report.output,


rule prepare:
    """All media and annotations."""
    input:
        rules.annotate.output,


rule evaluate:
    """All predictions and scores."""
    input:
        rules.score.output,
