"""The report: one HTML file that opens offline.

Inputs:  eval/, histories of sft/ and grpo/, index/, datasets/
Outputs: report/report.html
"""


rule report:
    """Write the report."""
    input:
        metrics=rules.score.output,
        models=expand(f"{RESULTS}/{{model}}/manifest.json", model=MODELS),
        dataset=rules.annotate.output[0],
        verification=rules.findings.output,
    output:
        f"{RESULTS}/report/report.html",
    log:
        f"{LOGS}/report.log",
    params:
        config=settings("report"),
        code=code("report"),
        results=subpath(output[0], ancestor=2),
    message:
        "Report: {output}"
    shell:
        "medtune report --config {params.config:q} --results {params.results}"
        " --output {output} 2>&1 | tee -i {log}"
