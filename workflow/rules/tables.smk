# Stage 6: runs to tables. The table's text and the part of the study that it shows are parameters, not inputs:
# a comment in the yaml file reruns nothing, nor does a fresh clone.


def table_runs(wildcards):
    """The numbers of every run behind the table."""
    return plan.runs(list(plan.tables[wildcards.table].experiments(study).values()), "metrics.json")


def table_text(wildcards):
    """What the table's file says, without its comments."""
    return plan.tables[wildcards.table].model_dump_json()


def table_study(wildcards):
    """The part of the study that decides the table."""
    return plan.narrowed(plan.tables[wildcards.table])


rule table:
    input:
        table_runs,
    output:
        "results/{dataset}/tables/{table}.csv",
        "results/{dataset}/tables/{table}.md",
        "results/{dataset}/tables/{table}.tex",
        report(
            "results/{dataset}/tables/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "results/{dataset}/logs/tables/{table}.log",
    params:
        code=code("table"),
        text=table_text,
        study=table_study,
    conda:
        "../../envs/report.yaml"
    shell:
        "python -m avpipe tables write {wildcards.table} --spec {params.text:q} --study {params.study:q}"
        " --results results/{wildcards.dataset} > {log} 2>&1"
