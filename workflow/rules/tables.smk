# Stage 6: runs to tables. The table's text and its part of the study are parameters, not inputs, so that a changed
# comment in the yaml file, or its new date in a fresh clone, reruns nothing.


rule table:
    input:
        plan.table_inputs,
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
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(60),
    params:
        code=code("table"),
        text=plan.table_text,
        study=plan.table_study,
    shell:
        "python -m avpipe tables write {wildcards.table} --spec {params.text:q} --study {params.study:q}"
        " --results results/{wildcards.dataset} > {log} 2>&1"
