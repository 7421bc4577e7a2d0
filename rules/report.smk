"""The report: one HTML file that opens offline.

Inputs:  eval/, histories of sft/ and grpo/, index/, datasets/
Outputs: report/report.html        the report
         report/report.md          its figures as text
         report/iou.svg            its first plot
         report/report.timing.html  machine, time, memory, energy; it alone differs between equal runs
"""


rule report:
    """Write the report."""
    input:
        metrics=rules.score.output,
        models=[done(model) for model in MODELS],
        dataset=rules.annotate.output[0],
        verification=VERIFICATION,
    output:
        page=report(
            f"{RESULTS}/report/report.html",
            caption="../workflow/report/report.rst",
            category="Results",
            labels={"page": "report"},
        ),
        text=f"{RESULTS}/report/report.md",
        figure=report(
            f"{RESULTS}/report/iou.svg",
            caption="../workflow/report/iou.rst",
            category="Results",
            labels={"page": "mean 3-D IoU"},
        ),
        times=report(
            f"{RESULTS}/report/report.timing.html",
            caption="../workflow/report/timing.rst",
            category="Results",
            labels={"page": "times"},
        ),
    log:
        f"{LOGS}/report.log",
    params:
        config=settings("report"),
        code=code("report"),
        results=subpath(output.page, ancestor=2),
    message:
        "Report: {output.page}"
    shell:
        "medtune report --config {params.config:q} --results {params.results}"
        " --output {output.page} 2>&1 | tee -i {log}"
