# Stage 3: files to canonical clips, one uncompressed tar per shard.


rule normalise:
    input:
        downloads="results/{dataset}/downloads/{shard}.parquet",
        manifest=ancient("results/{dataset}/manifest.parquet"),
    output:
        tar="results/{dataset}/segments/{preset}/{shard}.tar",
        table="results/{dataset}/segments/{preset}/{shard}.parquet",
    log:
        "results/{dataset}/logs/normalise/{preset}/{shard}.log",
    benchmark:
        "results/{dataset}/benchmarks/normalise/{preset}/{shard}.tsv"
    group:
        plan.group_of("normalise")
    conda:
        "../../envs/media.yaml"
    threads: 4
    resources:
        mem_mb=each_attempt(2000),
        runtime=each_attempt(120),
    params:
        code=code("normalise"),
        preset=plan.preset_option,
        timeout=study.media.timeout,
    shell:
        "python -m avpipe media normalise --downloads {input.downloads} --manifest {input.manifest}"
        " --shard {wildcards.shard} --preset {params.preset:q} --tar {output.tar} --table {output.table}"
        " --timeout {params.timeout} --workers {threads} > {log} 2>&1"


rule clips:
    input:
        manifest="results/{dataset}/manifest.parquet",
        tables=outcome_tables,
        usable=study.dataset.usable or [],
    output:
        "results/{dataset}/clips.parquet",
    log:
        "results/{dataset}/logs/clips.log",
    conda:
        "../../envs/media.yaml"
    resources:
        mem_mb=each_attempt(4000),
        runtime=each_attempt(60),
    params:
        code=code("clips"),
        tables=([f"--tables={plan.results}/segments/{study.media.preset.name}"] if plan.needs_media else []),
        minimum=[f"--minimum={split}={share}" for split, share in study.dataset.minimum.items()],
        usable=[f"--usable={study.dataset.usable}"] if study.dataset.usable else [],
    shell:
        "python -m avpipe media clips --manifest {input.manifest} {params.tables} {params.minimum}"
        " {params.usable:q} --out {output} > {log} 2>&1"
