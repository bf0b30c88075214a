# Stage 2: clip names to files on disk. Downloaded files are not declared as output, so that a failed job keeps them.
# A shard counts as done even if some clips failed for now; the pipeline continues with the rest, and tables say how many
# are missing.


rule fetch:
    input:
        manifest=ancient("results/{dataset}/manifest.parquet"),
        index=ancient(manifest_index_file),
    output:
        "results/{dataset}/downloads/{shard}.parquet",
    log:
        "results/{dataset}/logs/fetch/{shard}.log",
    group:
        plan.group_of("fetch")
    conda:
        "../../envs/download.yaml"
    resources:
        downloads=int(plan.downloads_anything),
        mem_mb=each_attempt(2000),
        runtime=1440 if plan.downloads_anything else 240,  # files of this machine's disks need no day
    params:
        code=fetch_code([source.kind for source in study.dataset.sources]),
        clips=plan.shard_digest,
        identities=plan.source_identities,
        sources=plan.source_options,
        files="results/{dataset}/downloads/files",
    shell:
        "python -m avpipe download shard --manifest {input.manifest} --shard {wildcards.shard} {params.sources:q}"
        " --out {output} --files {params.files} > {log} 2>&1"
