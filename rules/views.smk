"""The data set as other trainers load it: LLaVA JSON, Parquet for EasyR1, Seg-Zero's DatasetDict.

Inputs:  datasets/
Outputs: datasets/views.manifest.json, with the files that it lists beside it
"""


rule views:
    """Write the views; nothing else reads them."""
    input:
        rules.annotate.output,
    output:
        f"{RESULTS}/datasets/views.manifest.json",
    log:
        f"{LOGS}/views.log",
    params:
        config=settings("views"),
        code=code("views"),
        dataset=subpath(output[0], parent=True),
    message:
        "Views of the data set: {params.dataset}"
    shell:
        "medtune views --config {params.config:q} --dataset {params.dataset} 2>&1 | tee -i {log}"


PREPARED += rules.views.output
