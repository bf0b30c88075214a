# Stage 7: runs and clips to figures.


def figure_inputs(wildcards):
    """The predictions behind the figure; and the clips themselves where it shows one."""
    spec = plan.figures[wildcards.figure]
    experiments = list(spec.experiments(study).values())
    clips = [f"{plan.results}/clips.parquet", *segment_files("tar")] if spec.shows_clip else []
    return [*plan.runs(experiments, "metrics.json"), *plan.runs(experiments, "predictions.parquet"), *clips]


def figure_text(wildcards):
    """What the figure's file says, without its comments."""
    return plan.figures[wildcards.figure].model_dump_json()


def figure_study(wildcards):
    """The part of the study that decides the figure."""
    return plan.narrowed(plan.figures[wildcards.figure])


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
    params:
        code=code("figure"),
        text=figure_text,
        study=figure_study,
    conda:
        "../../envs/report.yaml"
    shell:
        "python -m avpipe report figure {wildcards.figure} --spec {params.text:q} --study {params.study:q}"
        " --results results/{wildcards.dataset} > {log} 2>&1"
