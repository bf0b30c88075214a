# Stage 7: runs and clips to figures.


rule figure:
    input:
        figure_inputs,
    output:
        report(
            "results/{dataset}/figures/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        "results/{dataset}/figures/{figure}.png",
    log:
        "results/{dataset}/logs/figures/{figure}.log",
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(60),
    params:
        code=plan.figure_code,
        caption=plan.figure_caption,
        text=plan.figure_text,
        study=plan.figure_study,
    shell:
        "python -m avpipe report figure {wildcards.figure} --spec {params.text:q} --study {params.study:q}"
        " --results results/{wildcards.dataset} > {log} 2>&1"
