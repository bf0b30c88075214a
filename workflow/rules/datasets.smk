# Stage 1: annotation files to the manifest.


# The clips in source/ are not declared as output, because Snakemake would delete all of them before the job.
rule demo:
    output:
        directory("results/{dataset}/annotations"),
    log:
        "results/{dataset}/logs/demo.log",
    priority: 1  # it takes all cores; the experiments can be written beside other jobs
    conda:
        "../../envs/media.yaml"
    threads: 8
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(60),
    params:
        code=demo_code(study.dataset.kind),
        kind=study.dataset.kind,
        options=plan.demo_options,
    shell:
        "python -m avpipe datasets demo --kind {params.kind} --out results/{wildcards.dataset}"
        " --options {params.options:q} --workers {threads} > {log} 2>&1"


# A checkpoint, because the number of shards is known only after the annotations are read.
checkpoint manifest:
    input:
        annotation_files,
    output:
        manifest="results/{dataset}/manifest.parquet",
        index="results/{dataset}/manifest.json",
        events="results/{dataset}/events.parquet",
        categories="results/{dataset}/categories.csv",
        issues="results/{dataset}/issues.csv",
    log:
        "results/{dataset}/logs/manifest.log",
    conda:
        "../../envs/media.yaml"
    resources:
        mem_mb=each_attempt(4000),
        runtime=each_attempt(60),
    params:
        code=reader_code(study.dataset.kind),
        inventory=plan.source_inventory,
        kind=study.dataset.kind,
        annotations=plan.annotations,
        options=plan.reader_options,
        sources=plan.local_source_options,
        shard_size=study.shard_size,
    shell:
        "python -m avpipe datasets manifest --name {wildcards.dataset} --kind {params.kind}"
        " --annotations {params.annotations:q} --options {params.options:q} {params.sources:q}"
        " --shard-size {params.shard_size} --out results/{wildcards.dataset} > {log} 2>&1"
